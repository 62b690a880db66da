//! Executes AMX instructions on a CPU that has none: for tests, so that the machine code of the kernels runs as it is.
//!
//! Such a CPU takes them for undefined and raises a signal. The handler reads the instruction (`decode.rs`), does to
//! this thread's tiles and memory what it says (`machine.rs`), and goes on behind it. An instruction that a real CPU
//! would refuse (a tile without shape, shapes that do not fit) ends the process with a message. Any other undefined
//! instruction is as fatal as before.
//!
//! The handler allocates nothing and takes no lock: the tiles are a thread-local constant until they are first written.

mod decode;
mod machine;

use std::{cell::UnsafeCell, mem, ptr};

use decode::{Decoded, Registers};
use machine::Machine;

/// Whether the instructions are executed from now on. Called once.
pub(super) fn install() -> bool {
    // SAFETY: `sigaction` is plain data of which zeros are a value. The handler has the signature that `SA_SIGINFO`
    // asks for, and does nothing that a signal handler must not.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = undefined_instruction as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &action, ptr::null_mut()) == 0
    }
}

thread_local! {
    /// Only this thread's handler touches it, and that does not interrupt itself.
    static MACHINE: UnsafeCell<Machine> = const { UnsafeCell::new(Machine::NEW) };
}

extern "C" fn undefined_instruction(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with `SA_SIGINFO`, the third argument is the interrupted thread's state, ours until we return.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let mut registers = Registers::of(context);
    let start = registers.instruction;
    loop {
        // SAFETY: the CPU has just read an instruction there, or will next.
        match unsafe { decode::decode(registers) } {
            Ok(Decoded::Amx(instruction, length)) => {
                let done = MACHINE.with(|machine| {
                    // SAFETY: nobody else holds it (see `MACHINE`). The addresses are those that the interrupted code
                    // gave to the CPU to read and write.
                    unsafe { (*machine.get()).execute(instruction) }
                });
                if let Err(reason) = done {
                    refuse(reason);
                }
                registers.instruction += length;
            }
            // Those that follow each other have been done in one go: a signal costs more than they do.
            Ok(Decoded::Other) if registers.instruction != start => break,
            Ok(Decoded::Other) => {
                // The instruction runs again, and this time the signal does what it does by default.
                // SAFETY: a system call that may be made here.
                unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
                return;
            }
            Err(reason) => refuse(reason),
        }
    }
    context.uc_mcontext.gregs[libc::REG_RIP as usize] = registers.instruction as i64;
}

/// Ends the process.
fn refuse(reason: &str) -> ! {
    for part in ["AMX emulator: ", reason, "\n"] {
        // SAFETY: the bytes of `part`; the call may be made here.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: it may be called here.
    unsafe { libc::abort() }
}

#[cfg(test)]
mod tests;
