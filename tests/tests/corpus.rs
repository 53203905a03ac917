//! Runs the inputs in `tests/fuzz/corpus`: those that coverage guidance selected, and those that
//! once broke a parser. Each runs with the ordinary compiler and within a memory limit.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::{collections::BTreeSet, fs, path::Path};

/// Memory limit of one input in bytes: the highest limit of the targets' own tests.
const MEMORY_MAX_BYTES: u64 = 128 << 20;
/// Size limit of the whole corpus in bytes, so that the repository stays small.
const CORPUS_MAX_BYTES: u64 = 2 << 20;

#[test]
fn every_kept_input_passes_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut total = 0;
    for (name, body) in bodies::TARGETS {
        let mut inputs: Vec<_> = fs::read_dir(folder.join(name))
            .unwrap_or_else(|error| panic!("{name} has no corpus: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            total += bytes.len() as u64;
            println!("{}", input.display());
            memory_bound::within(MEMORY_MAX_BYTES, || body(&bytes));
        }
    }
    assert!(total <= CORPUS_MAX_BYTES, "{total} bytes of corpora");
}

#[test]
fn each_target_has_a_program_and_each_corpus_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let programs: BTreeSet<&str> = manifest
        .split("[[bin]]\n")
        .skip(1)
        .filter_map(|part| part.strip_prefix("name = \"")?.split('"').next())
        .collect();
    let targets: BTreeSet<&str> = bodies::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, targets);
    let corpora: BTreeSet<String> = fs::read_dir(folder.join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(corpora, targets.iter().map(|name| (*name).to_owned()).collect());
}
