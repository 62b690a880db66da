//! The emulator against tiles computed by hand, and what it refuses.

use std::process::Command;

use half::bf16;

use super::{
    decode::{Decoded, DotOperands, Instruction, Registers, decode},
    machine::Machine,
};
use crate::simd::amx::{Amx, permitted, present, tile_asm};

const DOT: DotOperands = DotOperands { sums: 0, rows: 1, weights: 2 };

/// A configuration of tiles `(rows, bytes of a row)`.
fn shapes(tiles: &[(u8, u8)]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (tile, (rows, row_bytes)) in tiles.iter().enumerate() {
        bytes[48 + tile] = *rows;
        bytes[16 + 2 * tile] = *row_bytes;
    }
    bytes
}

fn configured(tiles: &[(u8, u8)]) -> Machine {
    let mut machine = Machine::NEW;
    configure(&mut machine, &shapes(tiles)).unwrap();
    machine
}

fn configure(machine: &mut Machine, bytes: &[u8; 64]) -> Result<(), &'static str> {
    // SAFETY: `bytes` is readable.
    unsafe { machine.execute(Instruction::Configure { from: bytes.as_ptr() as u64 }) }
}

/// Fills a tile with rows of `words` words.
fn load<const ROW: usize>(machine: &mut Machine, tile: u8, rows: &[[u32; ROW]]) {
    let (from, stride) = (rows.as_ptr() as u64, 4 * ROW as u64);
    // SAFETY: the tests give as many rows as the tile has.
    unsafe { machine.execute(Instruction::Load { tile, from, stride }) }.unwrap();
}

fn stored<const ROW: usize, const ROWS: usize>(machine: &mut Machine, tile: u8) -> [[u32; ROW]; ROWS] {
    let mut rows = [[0xdead; ROW]; ROWS];
    let (to, stride) = (rows.as_mut_ptr() as u64, 4 * ROW as u64);
    // SAFETY: the tests take as many rows as the tile has.
    unsafe { machine.execute(Instruction::Store { tile, to, stride }) }.unwrap();
    rows
}

/// An instruction without memory.
fn execute(machine: &mut Machine, instruction: Instruction) -> Result<(), &'static str> {
    // SAFETY: it has no address.
    unsafe { machine.execute(instruction) }
}

fn pair(even: f32, odd: f32) -> u32 {
    u32::from(bf16::from_f32(even).to_bits()) | u32::from(bf16::from_f32(odd).to_bits()) << 16
}

fn dot_bf16<const PAIRS: usize>(sum: f32, rows: [u32; PAIRS], weights: [u32; PAIRS]) -> f32 {
    let mut machine = configured(&[(1, 4), (1, 4 * PAIRS as u8), (PAIRS as u8, 4)]);
    load(&mut machine, 0, &[[sum.to_bits()]]);
    load(&mut machine, 1, &[rows]);
    load(&mut machine, 2, &weights.map(|weight| [weight]));
    execute(&mut machine, Instruction::DotBf16(DOT)).unwrap();
    f32::from_bits(stored::<1, 1>(&mut machine, 0)[0][0])
}

#[test]
fn products_of_bf16_by_hand() {
    // Two rows, two columns, two pairs.
    let mut machine = configured(&[(2, 8), (2, 8), (2, 8)]);
    load(&mut machine, 0, &[[1000.0f32.to_bits(); 2]; 2]);
    load(&mut machine, 1, &[[pair(1.0, 2.0), pair(3.0, 4.0)], [pair(5.0, 6.0), pair(7.0, 8.0)]]);
    load(&mut machine, 2, &[[pair(1.0, 10.0), pair(-1.0, 0.5)], [pair(100.0, 0.25), pair(0.0, 2.0)]]);
    execute(&mut machine, Instruction::DotBf16(DOT)).unwrap();
    // 1·1 + 2·10 + 3·100 + 4·¼, 1·−1 + 2·½ + 3·0 + 4·2, and so on.
    let want = [[1322.0f32, 1008.0], [1767.0, 1014.0]].map(|row| row.map(f32::to_bits));
    assert_eq!(stored::<2, 2>(&mut machine, 0), want);
}

#[test]
fn even_and_odd_inputs_are_summed_apart() {
    // 2²⁴ + 1 is not an f32, 2²⁴ + 2 is. Evens: 2²⁴; odds: 1 + 1.
    let large = 16_777_216.0;
    assert_eq!(dot_bf16(0.0, [pair(large, 1.0), pair(0.0, 1.0)], [pair(1.0, 1.0); 2]), large + 2.0);
    // In one chain of evens, a 1 is lost twice.
    assert_eq!(dot_bf16(0.0, [pair(large, 0.0), pair(1.0, 0.0), pair(1.0, 0.0)], [pair(1.0, 1.0); 3]), large);
    // The products meet before they meet the destination.
    assert_eq!(dot_bf16(large, [pair(1.0, 1.0)], [pair(1.0, 1.0)]), large + 2.0);
}

#[test]
fn subnormal_numbers_are_zero_and_the_rest_is_ieee() {
    let (least, below) = (f32::MIN_POSITIVE, pair(f32::MIN_POSITIVE / 2.0, 0.0));
    assert_eq!(dot_bf16(0.0, [below], [pair(2.0, 0.0)]), 0.0, "a factor");
    assert_eq!(dot_bf16(least / 2.0, [pair(least, 0.0)], [pair(1.0, 0.0)]), least, "the destination");
    assert_eq!(dot_bf16(0.0, [pair(least, 0.0)], [pair(0.5, 0.0)]), 0.0, "a sum");
    assert_eq!(dot_bf16(0.0, [pair(-least, 0.0)], [pair(1.0, 0.0)]), -least);
    assert_eq!(dot_bf16(0.0, [pair(f32::INFINITY, 1.0)], [pair(2.0, 1.0)]), f32::INFINITY);
    assert!(dot_bf16(0.0, [pair(f32::INFINITY, 1.0)], [pair(0.0, 1.0)]).is_nan());
}

#[test]
fn products_of_bytes_by_hand() {
    let mut machine = configured(&[(2, 4), (2, 8), (2, 4)]);
    load(&mut machine, 0, &[[7], [0x7fff_ffff]]);
    // The first factor is unsigned, the second signed.
    load(&mut machine, 1, &[[0xff02_0304, 0], [0, 1]]);
    load(&mut machine, 2, &[[0xff80_7f01], [2]]);
    execute(&mut machine, Instruction::DotBytes(DOT)).unwrap();
    // 4·1 + 3·127 + 2·−128 + 255·−1 + 7; the other wraps.
    assert_eq!(stored::<1, 2>(&mut machine, 0), [[-119i32 as u32], [0x8000_0001]]);
}

#[test]
fn a_tile_has_only_its_shape() {
    let mut machine = configured(&[(3, 8)]);
    load(&mut machine, 0, &[[1, 2, 3], [4, 5, 6], [7, 8, 9]]);
    assert_eq!(stored::<3, 4>(&mut machine, 0), [[1, 2, 0xdead], [4, 5, 0xdead], [7, 8, 0xdead], [0xdead; 3]]);
    execute(&mut machine, Instruction::Zero { tile: 0 }).unwrap();
    assert_eq!(stored::<2, 3>(&mut machine, 0), [[0; 2]; 3]);
    // A new shape clears what was there.
    load(&mut machine, 0, &[[1, 2], [4, 5], [7, 8]]);
    configure(&mut machine, &shapes(&[(3, 8)])).unwrap();
    assert_eq!(stored::<2, 3>(&mut machine, 0), [[0; 2]; 3]);
}

#[test]
fn what_a_cpu_refuses_is_refused() {
    let refused = |done: Result<(), &str>, reason: &str| {
        let error = done.expect_err(reason);
        assert!(error.contains(reason), "{error}: {reason}");
    };
    let with = |place: usize, byte: u8| {
        let mut bytes = shapes(&[(16, 64)]);
        bytes[place] = byte;
        let mut machine = Machine::NEW;
        configure(&mut machine, &bytes)
    };
    refused(with(0, 2), "palettes");
    refused(with(1, 1), "start row");
    for reserved in [2, 15, 32, 47, 56, 63] {
        refused(with(reserved, 1), "reserved");
    }
    refused(with(48, 17), "at most 16 rows");
    refused(with(16, 68), "at most 16 rows");
    refused(with(17, 1), "at most 16 rows");
    refused(with(48, 0), "bytes without rows");
    refused(with(50, 1), "bytes without rows");
    refused(with(16, 62), "whole words");
    with(0, 0).unwrap();

    let mut machine = Machine::NEW;
    refused(execute(&mut machine, Instruction::Zero { tile: 0 }), "before they are configured");
    machine = configured(&[(16, 64)]);
    refused(execute(&mut machine, Instruction::Zero { tile: 1 }), "without shape");
    execute(&mut machine, Instruction::Release).unwrap();
    refused(execute(&mut machine, Instruction::Zero { tile: 0 }), "before they are configured");

    let dot = |tiles, operands| execute(&mut configured(tiles), Instruction::DotBf16(operands));
    dot(&[(3, 8), (3, 16), (4, 8)], DOT).unwrap();
    refused(dot(&[(2, 8), (3, 16), (4, 8)], DOT), "other rows");
    refused(dot(&[(3, 4), (3, 16), (4, 8)], DOT), "other columns");
    refused(dot(&[(3, 8), (3, 12), (4, 8)], DOT), "do not fit");
    refused(dot(&[(3, 8), (3, 16)], DOT), "without shape");
    refused(dot(&[(16, 64); 8], DotOperands { sums: 1, ..DOT }), "must differ");
    refused(dot(&[(16, 64); 8], DotOperands { weights: 1, ..DOT }), "must differ");
    refused(dot(&[(16, 64); 8], DotOperands { weights: 0, ..DOT }), "must differ");
}

/// As if register r held 1000 · (r + 1).
fn read(bytes: &[u8]) -> Result<Decoded, &'static str> {
    let general = std::array::from_fn(|register| 1000 * (register as u64 + 1));
    // SAFETY: the tests give whole instructions.
    unsafe { decode(Registers { general, instruction: bytes.as_ptr() as u64 }) }
}

// Bytes by GNU as 2.40.
#[test]
fn instructions_are_read_as_the_assembler_writes_them() {
    let amx = |bytes: &[u8]| match read(bytes) {
        Ok(Decoded::Amx(instruction, length)) => {
            assert_eq!(length, bytes.len() as u64, "{bytes:x?}");
            instruction
        }
        other => panic!("{bytes:x?}: {other:?}"),
    };
    let load = |tile, from, stride| Instruction::Load { tile, from, stride };
    let configure = |from| Instruction::Configure { from };
    assert_eq!(amx(&[0xc4, 0xe2, 0x78, 0x49, 0x06]), configure(7000), "[rsi]");
    assert_eq!(
        amx(&[0xc4, 0xc2, 0x78, 0x49, 0x85, 0x45, 0x23, 0x01, 0x00]),
        configure(14000 + 0x12345),
        "[r13+0x12345]"
    );
    assert_eq!(amx(&[0xc4, 0xe2, 0x79, 0x49, 0x44, 0x24, 0x08]), Instruction::Describe { to: 5008 }, "[rsp+8]");
    let relative = [0xc4, 0xe2, 0x78, 0x49, 0x05, 0x20, 0x00, 0x00, 0x00];
    assert_eq!(amx(&relative), configure(relative.as_ptr() as u64 + 9 + 0x20), "[rip+0x20]");
    assert_eq!(amx(&[0xc4, 0xe2, 0x78, 0x49, 0xc0]), Instruction::Release);
    assert_eq!(amx(&[0xc4, 0xe2, 0x7b, 0x49, 0xe8]), Instruction::Zero { tile: 5 });
    assert_eq!(amx(&[0xc4, 0xe2, 0x7b, 0x4b, 0x1c, 0x08]), load(3, 1000, 2000), "[rax+rcx*1]");
    assert_eq!(amx(&[0xc4, 0x82, 0x7b, 0x4b, 0x7c, 0x8c, 0xc0]), load(7, 12936, 40000), "[r12+r9*4-64]");
    assert_eq!(amx(&[0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x26]), load(0, 7000, 0), "[rsi]");
    let far = [0xc4, 0xe2, 0x7b, 0x4b, 0x8c, 0x5d, 0x00, 0x04, 0x00, 0x00];
    assert_eq!(amx(&far), load(1, 6000 + 0x400, 8000), "[rbp+rbx*2+0x400]");
    assert_eq!(amx(&[0xc4, 0x82, 0x7b, 0x4b, 0x4c, 0xfd, 0x00]), load(1, 14000, 128_000), "[r13+r15*8]");
    assert_eq!(amx(&[0xc4, 0xa2, 0x79, 0x4b, 0x14, 0x07]), load(2, 8000, 9000), "[rdi+r8*1], tileloaddt1");
    let no_base = [0xc4, 0xe2, 0x7b, 0x4b, 0x34, 0x55, 0x00, 0x10, 0x00, 0x00];
    assert_eq!(amx(&no_base), load(6, 0x1000, 6000), "[rdx*2+0x1000]");
    let store = Instruction::Store { tile: 3, to: 8000 + 0x840, stride: 3000 };
    assert_eq!(amx(&[0xc4, 0xe2, 0x7a, 0x4b, 0x9c, 0x17, 0x40, 0x08, 0x00, 0x00]), store, "[rdi+rdx*1+0x840]");
    let dot = Instruction::DotBf16(DotOperands { sums: 1, rows: 2, weights: 3 });
    assert_eq!(amx(&[0xc4, 0xe2, 0x62, 0x5c, 0xca]), dot);
    let dot = Instruction::DotBytes(DotOperands { sums: 6, rows: 7, weights: 5 });
    assert_eq!(amx(&[0xc4, 0xe2, 0x51, 0x5e, 0xf7]), dot);
}

#[test]
fn other_instructions_are_left_alone_and_broken_ones_refused() {
    // ud2; vpaddd; vfmadd231ps; tdpbssd, which no kernel uses.
    for bytes in
        [&[0x0f, 0x0b][..], &[0xc5, 0xfd, 0xfe, 0xc0], &[0xc4, 0xe2, 0x7d, 0xb8, 0xc0], &[0xc4, 0xe2, 0x6b, 0x5e, 0xc1]]
    {
        assert_eq!(read(bytes), Ok(Decoded::Other), "{bytes:x?}");
    }
    assert!(read(&[0xc4, 0xe2, 0xf8, 0x49, 0xc0]).unwrap_err().contains("W and L"));
    assert!(read(&[0xc4, 0xe2, 0x70, 0x49, 0xc0]).unwrap_err().contains("vvvv"));
    assert!(read(&[0xc4, 0xe2, 0x7b, 0x4b, 0x00]).unwrap_err().contains("SIB"));
    assert!(read(&[0xc4, 0x62, 0x7b, 0x4b, 0x04, 0x10]).unwrap_err().contains("eight tiles"));
    assert!(read(&[0xc4, 0xe2, 0x3a, 0x5c, 0xc1]).unwrap_err().contains("eight tiles"));
}

/// Tiles go where the kernels' go: through the CPU, and where it has none through its signal.
#[test]
fn each_thread_has_tiles_of_its_own() {
    let Some(_) = Amx::new() else {
        return println!("skipped: no AMX, and no AVX-512 with BF16 and VNNI to emulate it on");
    };
    let product = |x: f32| {
        let shapes = shapes(&[(2, 8), (2, 8), (2, 8)]);
        let (rows, weights) = ([[pair(x, 0.0); 2]; 2], [[pair(1.0, 0.0), pair(2.0, 0.0)]; 2]);
        let mut sums = [[0.0f32; 2]; 2];
        for _ in 0..100 {
            // SAFETY: there are tiles; the arrays have their shape.
            unsafe {
                tile_asm!(
                    "ldtilecfg [{shapes}]",
                    "tilezero tmm0",
                    "tileloadd tmm1, [{rows} + {stride}*8]",
                    "tileloaddt1 tmm2, [{weights} + {stride}*8]",
                    "add {count}, 1",
                    "tdpbf16ps tmm0, tmm1, tmm2",
                    "tilestored [{sums} + {stride}*8], tmm0",
                    "tilerelease",
                    shapes = in(reg) &shapes,
                    rows = in(reg) &rows,
                    weights = in(reg) &weights,
                    stride = in(reg) 1u64,
                    count = inout(reg) 0u64 => _,
                    sums = in(reg) &mut sums,
                )
            }
        }
        sums
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|i| scope.spawn(move || (i, product(i as f32)))).collect();
        for thread in threads {
            let (i, sums) = thread.join().unwrap();
            assert_eq!(sums, [[2.0 * i as f32, 4.0 * i as f32]; 2]);
        }
    });
}

#[test]
#[ignore = "run by the test below"]
fn a_tile_before_its_configuration() {
    if Amx::new().is_some() {
        // SAFETY: it ends the process.
        unsafe { tile_asm!("tilezero tmm0",) }
    }
}

#[test]
#[ignore = "run by the test below"]
fn an_undefined_instruction() {
    if Amx::new().is_some() {
        // SAFETY: it ends the process.
        unsafe { std::arch::asm!("ud2") }
    }
}

#[test]
fn misuse_ends_the_process() {
    if Amx::new().is_none() {
        return println!("skipped: no AMX, and no AVX-512 with BF16 and VNNI to emulate it on");
    }
    let run = |name: &str| {
        let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
        Command::new(std::env::current_exe().unwrap()).args(["--exact", &name, "--ignored"]).output().unwrap()
    };
    use std::os::unix::process::ExitStatusExt;
    let unconfigured = run("a_tile_before_its_configuration");
    if present() && permitted() {
        assert_eq!(unconfigured.status.signal(), Some(libc::SIGILL));
    } else {
        assert_eq!(unconfigured.status.signal(), Some(libc::SIGABRT));
        let message = String::from_utf8_lossy(&unconfigured.stderr);
        assert!(message.contains("AMX emulator: tiles are used before they are configured"), "{message}");
    }
    assert_eq!(run("an_undefined_instruction").status.signal(), Some(libc::SIGILL));
}
