//! Checks imports between crates: the table of ARCHITECTURE.md against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::DependencyKind;

use super::{metadata, none, read, root};

/// The workspace crates that a crate may import.
enum May {
    Everything,
    These(BTreeSet<String>),
}

/// Reads the code map: crate, folder, and permitted imports.
fn table() -> BTreeMap<String, (String, May)> {
    let page = read("ARCHITECTURE.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [folder, name, _, may] = cells[..] else { panic!("a row has four cells: {row}") };
        let may = match may {
            "everything" | "everything below" => May::Everything,
            "nothing" => May::These(BTreeSet::new()),
            list => May::These(list.trim_matches('`').split(' ').map(str::to_owned).collect()),
        };
        (name.trim_matches('`').to_owned(), (folder.trim_matches('`').to_owned(), may))
    })
    .collect()
}

#[test]
fn crates_import_what_the_architecture_allows() {
    let (metadata, table) = (metadata(), table());
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let mut complaints = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some((folder, may)) = table.get(name) else {
            complaints.push(format!("`{name}` is not in the code map of ARCHITECTURE.md"));
            continue;
        };
        let at = package.manifest_path.parent().map(|path| path.as_std_path().to_owned());
        if at != Some(root().join(folder)) {
            complaints
                .push(format!("`{name}` does not lie in {folder}, where the code map has it"));
        }
        let May::These(may) = may else { continue };
        for dependency in &package.dependencies {
            let of_workspace = members.contains(&dependency.name);
            // Imports of tests are unrestricted.
            let in_tests = dependency.kind == DependencyKind::Development;
            if of_workspace && !in_tests && !may.contains(&dependency.name) {
                complaints.push(format!("`{name}` must not import `{}`", dependency.name));
            }
        }
    }
    for name in table.keys().filter(|name| !members.contains(*name)) {
        complaints.push(format!("the code map has `{name}`, which is no crate of the workspace"));
    }
    none(&complaints);
}

#[test]
fn names_say_what_a_crate_or_module_provides() {
    const REFUSED: &[&str] =
        &["base", "common", "helper", "helpers", "misc", "shared", "util", "utils"];
    let mut complaints: Vec<String> = metadata()
        .workspace_packages()
        .iter()
        .filter(|package| REFUSED.contains(&package.name.as_str()))
        .map(|package| format!("the crate `{}` has a name that says nothing", package.name))
        .collect();
    // Rust's own documentation uses the name `common` for the module that test files share.
    let of_libraries = |path: &str| path.contains("/src/");
    for (path, _) in super::sources::files().into_iter().filter(|(path, _)| of_libraries(path)) {
        let stem = path.trim_end_matches(".rs").trim_end_matches("/mod").rsplit('/').next();
        if stem.is_some_and(|stem| REFUSED.contains(&stem)) {
            complaints.push(format!("{path} has a name that says nothing"));
        }
    }
    none(&complaints);
}
