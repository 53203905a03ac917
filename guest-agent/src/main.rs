//! The `/init` program of a vbuild guest.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest_agent::init::run();
    }
    let version = env!("CARGO_PKG_VERSION");
    let protocol = wire::PROTOCOL_VERSION;
    let _ = writeln!(
        std::io::stderr(),
        "vbuild-agent {version} (protocol {protocol}) is the init of vbuild's guests; \
         it does nothing as another process"
    );
    ExitCode::from(2)
}
