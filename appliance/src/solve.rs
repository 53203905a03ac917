//! Selects the packages of the tools root: the closure of the wanted packages over their
//! dependencies.
//!
//! This is not a general solver. It uses the first alternative that the release can satisfy, as
//! debootstrap does, and reports missing and conflicting packages. Within one stable release, where
//! every package is installable with the newest version of every other, that is sufficient, and the
//! result is deterministic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::index::{Alternative, Index, Package, parse_relations};

/// An error while resolving packages.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// The release does not have a wanted package.
    #[error("the release has no package `{name}`")]
    Unknown {
        /// The package name.
        name: String,
    },
    /// A dependency of a selected package cannot be satisfied.
    #[error("`{package}` needs `{clause}`, which the release does not have")]
    Unsatisfiable {
        /// The package with the dependency.
        package: String,
        /// The dependency.
        clause: String,
    },
    /// Two selected packages conflict.
    #[error("`{package}` conflicts with `{other}`")]
    Conflict {
        /// The package that declares the conflict.
        package: String,
        /// The other package.
        other: String,
    },
    /// The indices contain no essential package, so they are not Debian's.
    #[error("the package indices name no essential package")]
    NoBase,
}

/// Resolves the wanted packages and the essential ones.
///
/// In the result, every package follows its dependencies, except in cycles, which are broken at the
/// package whose name comes first.
///
/// # Errors
/// Fails if a package is unknown, a dependency cannot be satisfied, or two packages conflict.
pub(crate) fn resolve(index: &Index, wanted: &[String]) -> Result<Vec<Package>, SolveError> {
    let mut chosen = Chosen { index, packages: BTreeMap::new(), queue: VecDeque::new() };
    let essential = index.essential();
    if essential.is_empty() {
        return Err(SolveError::NoBase);
    }
    for package in essential {
        chosen.take(package);
    }
    // All wanted packages are selected before any dependency is followed, so that an explicitly
    // requested alternative takes precedence over the default one.
    for name in wanted {
        let virtual_name = Alternative { name: name.clone(), version: None };
        let package = index
            .get(name)
            .or_else(|| index.providers(&virtual_name).into_iter().next())
            .ok_or_else(|| SolveError::Unknown { name: name.clone() })?;
        chosen.take(package);
    }
    chosen.follow()?;
    chosen.check_conflicts()?;
    Ok(chosen.ordered())
}

struct Chosen<'a> {
    index: &'a Index,
    packages: BTreeMap<String, Package>,
    queue: VecDeque<String>,
}

impl<'a> Chosen<'a> {
    fn take(&mut self, package: Package) {
        if !self.packages.contains_key(&package.name) {
            self.queue.push_back(package.name.clone());
            self.packages.insert(package.name.clone(), package);
        }
    }

    /// Returns the selected package that satisfies an alternative, if there is one.
    fn holder(&self, wanted: &Alternative) -> Option<&Package> {
        self.packages
            .get(&wanted.name)
            .filter(|package| package.satisfies(wanted))
            .or_else(|| self.packages.values().find(|package| package.provides(wanted)))
    }

    fn follow(&mut self) -> Result<(), SolveError> {
        while let Some(name) = self.queue.pop_front() {
            let depends = self.packages.get(&name).map(|package| package.depends.clone());
            for clause in parse_relations(&depends.unwrap_or_default()) {
                if clause.iter().any(|wanted| self.holder(wanted).is_some()) {
                    continue;
                }
                let candidate = self.candidate(&clause).ok_or_else(|| {
                    SolveError::Unsatisfiable { package: name.clone(), clause: show(&clause) }
                })?;
                self.take(candidate);
            }
        }
        Ok(())
    }

    /// Returns the first available alternative, real packages before providers, preferably without
    /// a conflict with selected packages.
    fn candidate(&self, clause: &[Alternative]) -> Option<Package> {
        let mut all: Vec<Package> = clause
            .iter()
            .flat_map(|wanted| {
                let real = self.index.get(&wanted.name).filter(|package| package.satisfies(wanted));
                real.into_iter().chain(self.index.providers(wanted))
            })
            .collect();
        let peaceful = all.iter().position(|package| {
            self.packages
                .values()
                .all(|other| !excludes(package, other) && !excludes(other, package))
        });
        (!all.is_empty()).then(|| all.swap_remove(peaceful.unwrap_or(0)))
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

    /// Returns the packages in depth-first order: dependencies first.
    fn ordered(&self) -> Vec<Package> {
        let mut order = Vec::with_capacity(self.packages.len());
        let mut seen = BTreeSet::new();
        // Essential packages come first, since maintainer scripts may use them without declaring
        // it.
        let (base, rest): (Vec<_>, Vec<_>) =
            self.packages.values().partition(|package| package.essential);
        for root in base.into_iter().chain(rest) {
            self.visit(root, &mut seen, &mut order);
        }
        order.into_iter().cloned().collect()
    }

    /// Appends a package to `order`, after its dependencies. Uses an explicit stack, because the
    /// depth is that of the dependency graph.
    fn visit<'s>(
        &'s self,
        root: &'s Package,
        seen: &mut BTreeSet<&'s str>,
        order: &mut Vec<&'s Package>,
    ) {
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

    fn needs(&self, package: &Package) -> VecDeque<&Package> {
        parse_relations(&package.depends)
            .iter()
            .filter_map(|clause| clause.iter().find_map(|wanted| self.holder(wanted)))
            .collect()
    }
}

/// Whether `package` declares a conflict with `other`. A package never conflicts with itself, which
/// lets it be the only provider of a virtual name.
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
    use crate::index::tests::index_of;

    fn index(packages: &[(&str, &str)]) -> Index {
        let base = [("base", "Essential: yes\nDepends: libc\n"), ("libc", "")];
        index_of(&[&base, packages].concat())
    }

    fn names(index: &Index, wanted: &[&str]) -> Result<Vec<String>, SolveError> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        resolve(index, &wanted)
            .map(|packages| packages.iter().map(|package| package.name.clone()).collect())
    }

    #[test]
    fn dependencies_come_first() {
        let index = index(&[
            ("a", "Depends: b, c\n"),
            ("b", "Pre-Depends: c\n"),
            ("c", "Depends: a | b\n"),
        ]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["libc", "base", "c", "b", "a"]);
    }

    #[test]
    fn the_first_available_alternative_unless_one_was_asked_for() {
        let index = index(&[("a", "Depends: gone | x | y\n"), ("x", ""), ("y", "")]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["libc", "base", "x", "a"]);
        assert_eq!(names(&index, &["a", "y"]).unwrap(), ["libc", "base", "y", "a"]);
    }

    #[test]
    fn providers_stand_in() {
        let index = index(&[("a", "Depends: mta (>= 2)\n"), ("exim", "Provides: mta (= 2)\n")]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["libc", "base", "exim", "a"]);
    }

    #[test]
    fn a_conflicting_alternative_is_avoided_and_a_conflict_reported() {
        let index =
            index(&[("a", "Depends: x | y\n"), ("x", ""), ("y", ""), ("foe", "Conflicts: x\n")]);
        assert_eq!(names(&index, &["a", "foe"]).unwrap(), ["libc", "base", "y", "a", "foe"]);
        let error = names(&index, &["x", "foe"]).unwrap_err();
        assert_eq!(error.to_string(), "`foe` conflicts with `x`");
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let index = index(&[("a", "Depends: gone (>= 2) | lost\n")]);
        let error = names(&index, &["a"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a` needs `gone (>= 2) | lost`, which the release does not have"
        );
        assert!(matches!(names(&index, &["nope"]), Err(SolveError::Unknown { .. })));
    }
}
