//! From bytes to an AMX instruction (Intel's Software Developer's Manual, volume 2).
//!
//! All of them have a VEX prefix of three bytes, opcode map 0F38, 128 bits, W = 0.

/// Registers of the interrupted code, by their numbers in instructions (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to
/// r15).
#[derive(Clone, Copy)]
pub(super) struct Registers {
    pub(super) general: [u64; 16],
    /// Address of the instruction.
    pub(super) instruction: u64,
}

impl Registers {
    pub(super) fn of(context: &libc::ucontext_t) -> Self {
        const NUMBERED: [i32; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        let read = |register: i32| context.uc_mcontext.gregs[register as usize] as u64;
        Self { general: NUMBERED.map(read), instruction: read(libc::REG_RIP) }
    }
}

/// An instruction with its addresses computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `ldtilecfg`
    Configure { from: u64 },
    /// `sttilecfg`
    Describe { to: u64 },
    /// `tilerelease`
    Release,
    /// `tilezero`
    Zero { tile: u8 },
    /// `tileloadd`, `tileloaddt1`
    Load { tile: u8, from: u64, stride: u64 },
    /// `tilestored`
    Store { tile: u8, to: u64, stride: u64 },
    /// `tdpbf16ps`
    DotBf16(DotOperands),
    /// `tdpbusd`
    DotBytes(DotOperands),
}

/// Tiles of `sums += rows · weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DotOperands {
    pub(super) sums: u8,
    pub(super) rows: u8,
    pub(super) weights: u8,
}

/// The bytes at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// With its length in bytes.
    Amx(Instruction, u64),
    /// Something else.
    Other,
}

/// Reads the instruction.
///
/// # Errors
/// If it would be an AMX instruction, but for a field that must have another value.
///
/// # Safety
/// There must be a whole instruction, or what the CPU read of one.
pub(super) unsafe fn decode(registers: Registers) -> Result<Decoded, &'static str> {
    let mut at = registers.instruction as *const u8;
    let mut next = || {
        // SAFETY: within the instruction, by the caller's promise: no byte is read before those ahead of it say that
        // the instruction has it.
        let byte = unsafe { *at };
        at = at.wrapping_add(1);
        byte
    };
    if next() != 0xc4 {
        return Ok(Decoded::Other);
    }
    let (first, second) = (next(), next());
    if first & 0x1f != 2 {
        return Ok(Decoded::Other);
    }
    let opcode = next();
    if !matches!(opcode, 0x49 | 0x4b | 0x5c | 0x5e) {
        return Ok(Decoded::Other);
    }
    if second & 0x84 != 0 {
        return Err("W and L must be 0");
    }
    // Stored inverted.
    let (r, x, b) = (!first >> 7 & 1, !first >> 6 & 1, !first >> 5 & 1);
    let third = !(second >> 3) & 15;
    let prefix = second & 3;
    let (none, operand_size, repeat, repeat_not) = (0, 1, 2, 3);

    let modes = next();
    let (mode, reg, rm) = (modes >> 6, modes >> 3 & 7, modes & 7);
    if mode == 3 {
        let instruction = match (opcode, prefix) {
            (0x49, p) if p == none && modes == 0xc0 => Instruction::Release,
            (0x49, p) if p == repeat_not && rm == 0 => Instruction::Zero { tile: reg },
            (0x5c, p) if p == repeat => Instruction::DotBf16(DotOperands { sums: reg, rows: rm, weights: third }),
            (0x5e, p) if p == operand_size => {
                Instruction::DotBytes(DotOperands { sums: reg, rows: rm, weights: third })
            }
            _ => return Ok(Decoded::Other),
        };
        if r != 0 || b != 0 || third > 7 {
            return Err("there are eight tiles");
        }
        if opcode == 0x49 && third != 0 {
            return Err("vvvv must be 1111");
        }
        return Ok(Decoded::Amx(instruction, at as u64 - registers.instruction));
    }

    let scaled = rm == 4;
    let (mut base, mut index) = (Some(rm | b << 3), None);
    if scaled {
        let byte = next();
        let (number, from) = (byte >> 3 & 7 | x << 3, byte & 7);
        base = (from != 5 || mode != 0).then_some(from | b << 3);
        index = (number != 4).then_some((number, byte >> 6));
    }
    let relative = !scaled && mode == 0 && rm == 5;
    let displacement = match mode {
        1 => i64::from(next() as i8),
        0 if !relative && base.is_some() => 0,
        _ => i64::from(i32::from_le_bytes([next(), next(), next(), next()])),
    };
    let length = at as u64 - registers.instruction;
    let general = |register: u8| registers.general[usize::from(register)];
    let index = index.map_or(0, |(register, scale)| general(register) << scale);
    let start = if relative { registers.instruction + length } else { base.map_or(0, general) };
    let address = start.wrapping_add_signed(displacement);

    let instruction = match (opcode, prefix) {
        (0x49, p) if p == none && reg == 0 => Instruction::Configure { from: address.wrapping_add(index) },
        (0x49, p) if p == operand_size && reg == 0 => Instruction::Describe { to: address.wrapping_add(index) },
        (0x4b, p) if p == operand_size || p == repeat_not => {
            Instruction::Load { tile: reg, from: address, stride: index }
        }
        (0x4b, p) if p == repeat => Instruction::Store { tile: reg, to: address, stride: index },
        _ => return Ok(Decoded::Other),
    };
    if third != 0 {
        return Err("vvvv must be 1111");
    }
    if opcode == 0x4b && !scaled {
        return Err("tiles are moved with a SIB byte");
    }
    if r != 0 {
        return Err("there are eight tiles");
    }
    Ok(Decoded::Amx(instruction, length))
}
