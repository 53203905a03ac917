//! Puts the guest agent into the binary when `VBUILD_EMBED_AGENT` names one.
//!
//! A distributed vbuild is one file. While developing, the agent is found
//! beside the binary instead, so that no test needs a guest binary to compile.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=VBUILD_EMBED_AGENT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let code = match env::var_os("VBUILD_EMBED_AGENT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = fs::canonicalize(&path)
                .unwrap_or_else(|e| panic!("VBUILD_EMBED_AGENT={}: {e}", path.display()));
            println!("cargo:rerun-if-changed={}", path.display());
            format!("Some(include_bytes!({:?}))", path.display().to_string())
        }
        None => "None".to_owned(),
    };
    fs::write(out.join("agent.rs"), code).expect("OUT_DIR can be written");
}
