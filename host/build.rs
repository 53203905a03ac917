//! Puts guest agents into the binary: those that `VBUILD_EMBED_AGENT` (amd64) and
//! `VBUILD_EMBED_AGENT_ARM64` name.
//!
//! A distributed vbuild is one file. While developing, the agent is found
//! beside the binary instead, so that no test needs a guest binary to compile.

use std::{env, fs, path::PathBuf};

/// The level of zstd: the slowest, because it runs once for each release.
const FRAME_LEVEL: i32 = 19;

/// Architectures by Debian's names, and the variables that name their agents.
const AGENTS: [(&str, &str); 2] =
    [("amd64", "VBUILD_EMBED_AGENT"), ("arm64", "VBUILD_EMBED_AGENT_ARM64")];

fn main() {
    // Relative relocations take a hundredth of the space; glibc knows them since 2.36.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut embedded = Vec::new();
    for (architecture, variable) in AGENTS {
        println!("cargo:rerun-if-env-changed={variable}");
        let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else { continue };
        let path = fs::canonicalize(&path)
            .unwrap_or_else(|e| panic!("{variable}={}: {e}", path.display()));
        println!("cargo:rerun-if-changed={}", path.display());
        let agent = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let frame = zstd::encode_all(agent.as_slice(), FRAME_LEVEL).expect("memory to memory");
        let file = format!("agent-{architecture}.zst");
        fs::write(out.join(&file), frame).expect("OUT_DIR can be written");
        embedded.push(format!(
            "(\"{architecture}\", include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")))"
        ));
    }
    let code = format!("&[{}]", embedded.join(","));
    fs::write(out.join("agents.rs"), code).expect("OUT_DIR can be written");
}
