//! House rules for modules: the imports of a crate's top-level modules have no cycles, in
//! `host/src` not even those within a folder; and the program's library has few public items.

use std::collections::{BTreeMap, BTreeSet};

use super::{none, sources};

/// Maximum number of public items of the program's library.
const PUBLIC_MAX: usize = 30;

/// A module's path, outermost first; empty for the root.
type Module = Vec<String>;
type Edges = BTreeSet<(Module, Module)>;

/// Returns the directories of all crates, with their modules and the code of each module, without
/// comments and unit tests.
fn crates() -> BTreeMap<String, BTreeMap<Module, String>> {
    let mut crates: BTreeMap<String, BTreeMap<Module, String>> = BTreeMap::new();
    for (path, text) in sources::files() {
        let path = path.strip_suffix(".rs").unwrap_or(&path);
        let Some((directory, path)) = path.split_once("/src/") else { continue };
        // Programs beside a library have modules of their own, which are not looked at.
        if path.starts_with("bin/") {
            continue;
        }
        let mut module: Module = path.split('/').map(str::to_owned).collect();
        match module.last().map(String::as_str) {
            Some("main" | "tests") => continue,
            Some("lib" | "mod") => drop(module.pop()),
            _ => {}
        }
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
        let code = lines.collect::<Vec<_>>().join("\n");
        crates.entry(directory.to_owned()).or_default().insert(module, code);
    }
    crates
}

/// Returns the modules of the program.
fn modules() -> BTreeMap<Module, String> {
    crates().remove("host").expect("the program is in host/src")
}

/// Returns the imports of all modules but the root, which only declares them.
fn edges(all: &BTreeMap<Module, String>) -> Edges {
    all.iter()
        .filter(|(module, _)| !module.is_empty())
        .flat_map(|(module, code)| {
            imports(module, code, all).into_iter().map(|to| (module.clone(), to))
        })
        .collect()
}

/// Reduces imports to those between top-level modules, each of which includes the modules below it.
fn top_level(edges: &Edges) -> Edges {
    let top = edges.iter().map(|(from, to)| (vec![from[0].clone()], vec![to[0].clone()]));
    top.filter(|(from, to)| from != to).collect()
}

/// Returns an edge as text for messages.
fn shown((from, to): (Module, Module)) -> String {
    format!("{} -> {}", from.join("::"), to.join("::"))
}

/// Expands a use tree such as `a::{b, c::d}` to paths that begin with `prefix`.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = tree.find(|c| !is_name(c)).unwrap_or(tree.len());
    let path = format!("{prefix}{}", &tree[..end]);
    let Some(inner) = tree[end..].strip_prefix('{') else { return paths.push(path) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let item = inner[start..at].trim();
                // rustfmt ends lists with a comma.
                if !item.is_empty() {
                    expand(item, &path, paths);
                }
                start = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Returns the modules that a module's code names by `crate::` and `super::`, and the modules that
/// it declares.
fn imports(module: &Module, code: &str, all: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let mut found: BTreeSet<Module> = all
        .keys()
        .filter(|other| other.split_last().is_some_and(|(_, up)| up == module))
        .cloned()
        .collect();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut paths = Vec::new();
            expand(&code[at..], "", &mut paths);
            found.extend(paths.iter().filter_map(|path| resolve(module, path, all)));
        }
    }
    found.remove(module);
    found
}

/// Returns the module of the item that a path names.
fn resolve(module: &Module, path: &str, all: &BTreeMap<Module, String>) -> Option<Module> {
    let mut full = module.clone();
    for part in path.split("::").filter(|part| !part.is_empty()) {
        match part {
            "crate" => full.clear(),
            "super" => drop(full.pop()),
            "self" => {}
            name => full.push(name.to_owned()),
        }
    }
    while !full.is_empty() && !all.contains_key(&full) {
        full.pop();
    }
    (!full.is_empty()).then_some(full)
}

/// Returns the edges that are left when modules without incoming or outgoing edges are removed
/// repeatedly: those on cycles, or between them.
fn circles(mut edges: Edges) -> Edges {
    loop {
        let from: BTreeSet<_> = edges.iter().map(|(from, _)| from.clone()).collect();
        let to: BTreeSet<_> = edges.iter().map(|(_, to)| to.clone()).collect();
        let before = edges.len();
        edges.retain(|(a, b)| to.contains(a) && from.contains(b));
        if edges.len() == before {
            return edges;
        }
    }
}

#[test]
fn no_modules_of_the_program_import_each_other() {
    let edges = edges(&modules());
    assert!(edges.len() > 300, "only {} imports found", edges.len());
    none(&circles(edges).into_iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn no_top_level_modules_of_a_crate_import_each_other() {
    let (mut count, mut told) = (0, Vec::new());
    for (directory, modules) in crates() {
        let edges = top_level(&edges(&modules));
        count += edges.len();
        told.extend(circles(edges).into_iter().map(|edge| format!("{directory}: {}", shown(edge))));
    }
    assert!(count > 600, "only {count} imports found");
    none(&told);
}

/// rustc's lint `unreachable_pub` refuses `pub` items that are private in effect, so counting
/// `pub` counts the public items.
#[test]
fn the_programs_library_shows_little() {
    const ITEMS: &[&str] =
        &["fn ", "async fn ", "const ", "enum ", "mod ", "static ", "struct ", "trait ", "type "];
    let is_public = |line: &&str| {
        let item = line.trim_start().strip_prefix("pub ");
        item.is_some_and(|item| ITEMS.iter().any(|kind| item.starts_with(kind)))
    };
    let all = modules();
    let items: Vec<&str> =
        all.values().flat_map(|code| code.lines().filter(is_public)).map(str::trim).collect();
    assert!(items.len() <= PUBLIC_MAX, "{} are public:\n{}", items.len(), items.join("\n"));
}

#[test]
fn circles_are_found() {
    let edge = |from: &str, to: &str| (vec![from.to_owned()], vec![to.to_owned()]);
    let edges = ["ab", "bc", "ca", "xa", "cy"].map(|e| edge(&e[..1], &e[1..]));
    assert_eq!(circles(edges.into()), ["ab", "bc", "ca"].map(|e| edge(&e[..1], &e[1..])).into());
    let mut paths = Vec::new();
    expand("crate::{a, b::{self, c},\n}; more", "", &mut paths);
    assert_eq!(paths, ["crate::a", "crate::b::self", "crate::b::c"]);
}
