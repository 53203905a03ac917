//! Which packages make up the tool root: the closure of the wanted ones over
//! their dependencies.
//!
//! This is not a general solver. It follows the first alternative that the
//! release can satisfy, as debootstrap does, and reports what cannot be had or
//! does not go together; within one stable release, where every package is
//! installable with the newest version of every other, that is enough, and the
//! answer is the same on every machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::index::{Alternative, Index, Package, parse_relations};

/// Why there is no set of packages.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// A wanted package is not in the release.
    #[error("the release has no package `{name}`")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A dependency of a chosen package cannot be met.
    #[error("`{package}` needs `{clause}`, which the release does not have")]
    Unsatisfiable {
        /// The package with the dependency.
        package: String,
        /// The dependency.
        clause: String,
    },
    /// Two chosen packages exclude each other.
    #[error("`{package}` conflicts with `{other}`")]
    Conflict {
        /// The package that declares the conflict.
        package: String,
        /// The other one.
        other: String,
    },
    /// Nothing in the indices is essential, so they are not Debian's.
    #[error("the package indices name no essential package")]
    NoBase,
}

/// Resolves the wanted packages and the essential base.
///
/// The result is in an order in which every package follows what it depends
/// on, as far as there are no cycles; cycles are cut at the package whose name
/// comes first.
///
/// # Errors
/// When a package is unknown, a dependency cannot be met, or two packages
/// exclude each other.
pub(crate) fn resolve<'a>(
    index: &'a Index,
    wanted: &[String],
) -> Result<Vec<&'a Package>, SolveError> {
    let mut chosen = Chosen { index, packages: BTreeMap::new(), queue: VecDeque::new() };
    let essential: Vec<&Package> = index.iter().filter(|package| package.essential).collect();
    if essential.is_empty() {
        return Err(SolveError::NoBase);
    }
    for package in essential {
        chosen.take(package);
    }
    // All wanted packages are chosen before any dependency is followed, so that
    // an alternative that was asked for by name wins over the default one.
    for name in wanted {
        let virtual_name = Alternative { name: name.clone(), version: None };
        let package = index
            .get(name)
            .or_else(|| index.providers(&virtual_name).first().copied())
            .ok_or_else(|| SolveError::Unknown { name: name.clone() })?;
        chosen.take(package);
    }
    chosen.follow()?;
    chosen.check_conflicts()?;
    Ok(chosen.ordered())
}

struct Chosen<'a> {
    index: &'a Index,
    packages: BTreeMap<&'a str, &'a Package>,
    queue: VecDeque<&'a Package>,
}

impl<'a> Chosen<'a> {
    fn take(&mut self, package: &'a Package) {
        if self.packages.insert(&package.name, package).is_none() {
            self.queue.push_back(package);
        }
    }

    /// The chosen package that meets an alternative, if there is one.
    fn holder(&self, wanted: &Alternative) -> Option<&'a Package> {
        self.packages
            .get(wanted.name.as_str())
            .filter(|package| package.satisfies(wanted))
            .or_else(|| self.packages.values().find(|package| package.provides(wanted)))
            .copied()
    }

    fn follow(&mut self) -> Result<(), SolveError> {
        while let Some(package) = self.queue.pop_front() {
            for clause in parse_relations(&package.depends) {
                if clause.iter().any(|wanted| self.holder(wanted).is_some()) {
                    continue;
                }
                let candidate =
                    self.candidate(&clause).ok_or_else(|| SolveError::Unsatisfiable {
                        package: package.name.clone(),
                        clause: show(&clause),
                    })?;
                self.take(candidate);
            }
        }
        Ok(())
    }

    /// The first alternative that exists, real packages before providers,
    /// preferring one that does not conflict with what is chosen already.
    fn candidate(&self, clause: &[Alternative]) -> Option<&'a Package> {
        let all: Vec<&'a Package> = clause
            .iter()
            .flat_map(|wanted| {
                let real = self.index.get(&wanted.name).filter(|package| package.satisfies(wanted));
                real.into_iter().chain(self.index.providers(wanted))
            })
            .collect();
        let peaceful = all.iter().find(|package| {
            self.packages
                .values()
                .all(|other| !excludes(package, other) && !excludes(other, package))
        });
        peaceful.or(all.first()).copied()
    }

    fn check_conflicts(&self) -> Result<(), SolveError> {
        for package in self.packages.values().filter(|package| !package.conflicts.is_empty()) {
            for other in self.packages.values() {
                if excludes(package, other) {
                    return Err(SolveError::Conflict {
                        package: package.name.clone(),
                        other: other.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Depth-first order: dependencies first.
    fn ordered(&self) -> Vec<&'a Package> {
        let mut order = Vec::with_capacity(self.packages.len());
        let mut seen = BTreeSet::new();
        // Essential packages go first, as maintainer scripts may use them
        // without saying so.
        let (base, rest): (Vec<_>, Vec<_>) =
            self.packages.values().partition(|package| package.essential);
        for root in base.into_iter().chain(rest) {
            self.visit(root, &mut seen, &mut order);
        }
        order
    }

    /// An explicit stack, because the depth is that of the dependency graph.
    fn visit(&self, root: &'a Package, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a Package>) {
        if !seen.insert(&root.name) {
            return;
        }
        let mut stack = vec![(root, self.needs(root))];
        while let Some((package, needs)) = stack.last_mut() {
            match needs.pop_front() {
                Some(next) => {
                    if seen.insert(&next.name) {
                        stack.push((next, self.needs(next)));
                    }
                }
                None => {
                    order.push(package);
                    stack.pop();
                }
            }
        }
    }

    fn needs(&self, package: &Package) -> VecDeque<&'a Package> {
        parse_relations(&package.depends)
            .iter()
            .filter_map(|clause| clause.iter().find_map(|wanted| self.holder(wanted)))
            .collect()
    }
}

/// Whether `package` declares that it cannot be together with `other`. A
/// package never excludes itself, which is how it claims a virtual name alone.
fn excludes(package: &Package, other: &Package) -> bool {
    !package.conflicts.is_empty()
        && package.name != other.name
        && parse_relations(&package.conflicts)
            .into_iter()
            .flatten()
            .any(|wanted| other.satisfies(&wanted) || other.provides(&wanted))
}

fn show(clause: &[Alternative]) -> String {
    clause.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, depends: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            depends: depends.to_owned(),
            ..Package::default()
        }
    }

    fn index(packages: Vec<Package>) -> Index {
        let mut index = Index::default();
        index.insert(Package { essential: true, ..package("base", "libc") });
        index.insert(package("libc", ""));
        for package in packages {
            index.insert(package);
        }
        index.finish();
        index
    }

    fn names(index: &Index, wanted: &[&str]) -> Result<Vec<String>, SolveError> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        resolve(index, &wanted)
            .map(|packages| packages.iter().map(|package| package.name.clone()).collect())
    }

    #[test]
    fn dependencies_come_first() {
        let index = index(vec![package("a", "b, c"), package("b", "c"), package("c", "a | b")]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["libc", "base", "c", "b", "a"]);
    }

    #[test]
    fn the_first_available_alternative_unless_one_was_asked_for() {
        let packages = vec![package("a", "gone | x | y"), package("x", ""), package("y", "")];
        let index = index(packages);
        assert_eq!(names(&index, &["a"]).unwrap(), ["libc", "base", "x", "a"]);
        assert_eq!(names(&index, &["a", "y"]).unwrap(), ["libc", "base", "y", "a"]);
    }

    #[test]
    fn providers_stand_in() {
        let provider = Package { provides: "mta (= 2)".to_owned(), ..package("exim", "") };
        let index = index(vec![package("a", "mta (>= 2)"), provider]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["libc", "base", "exim", "a"]);
    }

    #[test]
    fn a_conflicting_alternative_is_avoided_and_a_conflict_reported() {
        let foe = Package { conflicts: "x".to_owned(), ..package("foe", "") };
        let index = index(vec![package("a", "x | y"), package("x", ""), package("y", ""), foe]);
        assert_eq!(names(&index, &["a", "foe"]).unwrap(), ["libc", "base", "y", "a", "foe"]);
        let error = names(&index, &["x", "foe"]).unwrap_err();
        assert_eq!(error.to_string(), "`foe` conflicts with `x`");
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let index = index(vec![package("a", "gone (>= 2) | lost")]);
        let error = names(&index, &["a"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a` needs `gone (>= 2) | lost`, which the release does not have"
        );
        assert!(matches!(names(&index, &["nope"]), Err(SolveError::Unknown { .. })));
    }
}
