//! The `ettin-run` binary; everything it does lives in [`ettin_cli`].

fn main() -> std::process::ExitCode {
    ettin_cli::main()
}
