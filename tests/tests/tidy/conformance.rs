//! Checks the tables in `tests/conformance`: each row about the originals' behaviour has an
//! existing proof or a reason, and the tables show the results of the last run.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{none, read, root, sources};

/// The expected number of rows in each table, as found by research.
const TABLES: &[(&str, &str, usize)] = &[
    ("virt-dib", "virt-dib 1.48, row by row", 85),
    ("diskimage-builder", "diskimage-builder 3.43, row by row", 108),
    ("b9", "B9 4.0.0, row by row", 160),
];

struct Row {
    number: usize,
    kind: String,
    text: String,
    proofs: Vec<Proof>,
}

enum Proof {
    /// A test, with program and path.
    Test(String),
    /// A command of the recorded session.
    Session(String),
    /// The reason why there is no test.
    Why(String),
    /// A description of what is missing.
    Open(String),
}

/// The status of a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Tested,
    Argued,
    NotRun,
    Open,
    Failed,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Tested => "tested",
            Self::Argued => "argued",
            Self::NotRun => "not run",
            Self::Open => "open",
            Self::Failed => "fails",
        }
    }
}

fn rows(table: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in read(&format!("tests/conformance/{table}.rows")).lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        if let Some(proof) = line.strip_prefix("  ") {
            let (word, rest) = proof.split_once(' ').unwrap_or((proof, ""));
            let rest = rest.to_owned();
            let proof = match word {
                "test" => Proof::Test(rest),
                "session" => Proof::Session(rest),
                "why" => Proof::Why(rest),
                "open" => Proof::Open(rest),
                other => panic!("{table}.rows: `{other}` is no kind of proof"),
            };
            rows.last_mut().expect("a row comes first").proofs.push(proof);
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let number = word().parse().unwrap_or_else(|_| panic!("{table}.rows: {line}"));
        rows.push(Row { number, kind: word(), text: word(), proofs: Vec::new() });
    }
    rows
}

/// Reads the test results by name: `ok` or `FAILED`.
fn results() -> BTreeMap<String, String> {
    read("tests/conformance/results")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(outcome, test)| (test.to_owned(), outcome.to_owned()))
        .collect()
}

fn standing(row: &Row, results: &BTreeMap<String, String>) -> Standing {
    let mut standing = Standing::Argued;
    for proof in &row.proofs {
        let of_proof = match proof {
            Proof::Why(_) => continue,
            Proof::Open(_) => Standing::Open,
            Proof::Session(_) => outcome(results.get("cli the_session_is_as_recorded")),
            Proof::Test(test) => outcome(results.get(test)),
        };
        standing = match standing {
            Standing::Argued => of_proof,
            other => other.max(of_proof),
        };
    }
    standing
}

fn outcome(result: Option<&String>) -> Standing {
    match result.map(String::as_str) {
        Some("ok") => Standing::Tested,
        Some(_) => Standing::Failed,
        None => Standing::NotRun,
    }
}

fn render(table: &str, title: &str, results: &BTreeMap<String, String>) -> String {
    let mut page = format!(
        "# {title}\n\nWritten by the test `conformance` of `tidy` from `{table}.rows` and the outcomes in\n\
         `results`; `README.md` says how.\n\n"
    );
    let rows = rows(table);
    let mut counts: BTreeMap<Standing, usize> = BTreeMap::new();
    for row in &rows {
        *counts.entry(standing(row, results)).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(standing, count)| format!("{} {count}", standing.word())).collect();
    writeln!(page, "Of {} rows: {}.\n", rows.len(), counts.join(", ")).unwrap();
    page += "| # | kind | behaviour | | proof |\n|---|---|---|---|---|\n";
    for row in &rows {
        let proofs: Vec<String> = row
            .proofs
            .iter()
            .map(|proof| match proof {
                Proof::Test(test) => format!("`{test}`"),
                Proof::Session(command) => format!("session `{command}`"),
                Proof::Why(why) => why.clone(),
                Proof::Open(what) => format!("**open:** {what}"),
            })
            .collect();
        let standing = standing(row, results).word();
        let cells =
            [&row.kind, &row.text, standing, &proofs.join("; ")].map(|c| c.replace('|', "\\|"));
        writeln!(page, "| {} | {} |", row.number, cells.join(" | ")).unwrap();
    }
    page
}

/// Whether a file contains a test with this cargo name: the function, in the named modules and
/// program. This detects tests that were moved.
fn holds(path: &str, text: &str, test: &str) -> bool {
    let (program, rest) = test.split_once(' ').unwrap_or(("", test));
    let (modules, name) = rest.rsplit_once("::").unwrap_or(("", rest));
    let words: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let mut modules = modules.split("::").filter(|module| !module.is_empty());
    text.contains(&format!("fn {name}("))
        && modules.all(|module| words.contains(&module) || text.contains(&format!("mod {module} ")))
        && (words.contains(&program) || package(path) == program)
}

/// Returns the package of a file, as in the names of its tests.
fn package(path: &str) -> String {
    let folders = std::path::Path::new(path).ancestors().skip(1);
    let mut manifests = folders.map(|folder| root().join(folder).join("Cargo.toml"));
    let text = manifests.find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("name = \""));
    name.unwrap_or_default().trim_end_matches('"').replace('-', "_")
}

#[test]
fn every_row_has_a_proof_that_exists() {
    let files = sources::files();
    let session = read("host/tests/cli/session.txt");
    let mut complaints = Vec::new();
    for (table, _, count) in TABLES {
        let rows = rows(table);
        let numbers: Vec<usize> = rows.iter().map(|row| row.number).collect();
        assert_eq!(numbers, (1..=*count).collect::<Vec<_>>(), "{table}: one row each, in order");
        for row in &rows {
            if row.proofs.is_empty() {
                complaints.push(format!("{table} {}: neither a proof nor a reason", row.number));
            }
            for proof in &row.proofs {
                let (what, exists) = match proof {
                    Proof::Test(test) => {
                        (test, files.iter().any(|(path, text)| holds(path, text, test)))
                    }
                    Proof::Session(command) => (
                        command,
                        session.lines().any(|line| line.strip_prefix("$ ") == Some(command)),
                    ),
                    Proof::Why(_) | Proof::Open(_) => continue,
                };
                if !exists {
                    complaints.push(format!("{table} {}: there is no `{what}`", row.number));
                }
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_tables_are_up_to_date_and_no_row_fails() {
    let results = results();
    let mut complaints = Vec::new();
    for (table, title, _) in TABLES {
        let page = render(table, title, &results);
        let path = format!("tests/conformance/{table}.md");
        if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
            std::fs::write(root().join(&path), page).unwrap();
        } else if read(&path) != page {
            complaints.push(format!(
                "{path} is not what rows and results say: run `sh tests/conformance.sh tables`"
            ));
        }
        let failing =
            rows(table).into_iter().filter(|row| standing(row, &results) == Standing::Failed);
        complaints.extend(failing.map(|row| format!("{table} {} fails: {}", row.number, row.text)));
    }
    none(&complaints);
}
