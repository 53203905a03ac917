//! vbuild: builds Linux disk images in a microVM, as an ordinary user.

use std::process::ExitCode;

fn main() -> ExitCode {
    vbuild::run(std::env::args_os().collect())
}
