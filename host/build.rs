//! Puts the guest agent into the binary when `VBUILD_EMBED_AGENT` names one.
//!
//! A distributed vbuild is one file. While developing, the agent is found
//! beside the binary instead, so that no test needs a guest binary to compile.

use std::{env, fs, path::PathBuf};

/// The level of zstd: the slowest, because it runs once for each release.
const FRAME_LEVEL: i32 = 19;

fn main() {
    // Relative relocations take a hundredth of the space; glibc knows them since 2.36.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    println!("cargo:rerun-if-env-changed=VBUILD_EMBED_AGENT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let code = match env::var_os("VBUILD_EMBED_AGENT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = fs::canonicalize(&path)
                .unwrap_or_else(|e| panic!("VBUILD_EMBED_AGENT={}: {e}", path.display()));
            println!("cargo:rerun-if-changed={}", path.display());
            let agent = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let frame = zstd::encode_all(agent.as_slice(), FRAME_LEVEL).expect("memory to memory");
            fs::write(out.join("agent.zst"), frame).expect("OUT_DIR can be written");
            "Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/agent.zst\")))".to_owned()
        }
        None => "None".to_owned(),
    };
    fs::write(out.join("agent.rs"), code).expect("OUT_DIR can be written");
}
