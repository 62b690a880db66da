//! Prints a source as a device's compiler gets it: `cargo run -p ettin-gpu --example sources -- cuda-with-tensor-cores`.

use ettin_gpu::sources;

fn main() {
    let source = match std::env::args().nth(1).as_deref() {
        Some("cuda") => sources::cuda(),
        Some("cuda-with-tensor-cores") => sources::cuda_with_tensor_cores(),
        Some("metal") => sources::metal(),
        _ => {
            eprintln!("name one of: cuda, cuda-with-tensor-cores, metal");
            std::process::exit(2);
        }
    };
    print!("{source}");
}
