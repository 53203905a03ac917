//! Expands a generator to artifacts: binds variables, gathers sources, and expands every string,
//! before anything is written.
//!
//! Sources are evaluated late, with the variables in scope of an artifact. Sources that no artifact
//! uses are never evaluated.

mod assembly;
mod sources;

use std::collections::BTreeMap;

pub use sources::{InstanceSource, Origin, Permissions};

use crate::{
    environment::Environment,
    haskell::{Shown, Term},
    place::{Fault, Place, Text},
    types::{ArtifactAssembly, ArtifactGenerator, ArtifactSource},
};

/// Maximum artifacts of a build. The largest known matrix has some dozens; the limit stops products
/// of many variables.
const INSTANCES_MAX: usize = 10_000;
/// Maximum expansions of bodies, whether or not they contain artifacts.
const BODIES_MAX: usize = 200_000;

/// An artifact to build.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The name of the artifact.
    pub id: Text,
    /// The variables in scope.
    pub environment: Environment,
    /// The files to generate for it.
    pub sources: Vec<InstanceSource>,
    /// How it is assembled; templates are expanded, except in the fixup.
    pub assembly: ArtifactAssembly,
}

/// Expands a generator.
///
/// # Errors
/// Fails on the first error, in document order.
pub fn expand(
    generator: &ArtifactGenerator,
    environment: &Environment,
) -> Result<Vec<Instance>, Fault> {
    let mut expansion = Expansion { instances: Vec::new(), bodies: 0 };
    let scope = Scope { environment: environment.clone(), sources: Vec::new() };
    expansion.generator(generator, &scope)?;
    Ok(expansion.instances)
}

#[derive(Debug, Clone)]
struct Scope<'g> {
    environment: Environment,
    /// The sources in scope, outer ones first.
    sources: Vec<&'g [ArtifactSource]>,
}

impl Scope<'_> {
    fn with(&self, bindings: &[(&Text, &Text)]) -> Result<Self, Fault> {
        let mut inner = self.clone();
        for (name, value) in bindings {
            let value = inner.environment.expand(value)?;
            inner.environment.bind(name, value.text)?;
        }
        Ok(inner)
    }
}

struct Expansion {
    instances: Vec<Instance>,
    bodies: usize,
}

impl Expansion {
    fn body<'g>(&mut self, body: &'g [ArtifactGenerator], scope: &Scope<'g>) -> Result<(), Fault> {
        self.bodies += 1;
        if self.bodies > BODIES_MAX {
            let message = format!("the generators expand to more than {BODIES_MAX} scopes");
            return Err(Fault::new(None, message));
        }
        for generator in body {
            self.generator(generator, scope)?;
        }
        Ok(())
    }

    fn generator<'g>(
        &mut self,
        generator: &'g ArtifactGenerator,
        scope: &Scope<'g>,
    ) -> Result<(), Fault> {
        match generator {
            ArtifactGenerator::EmptyArtifact => Ok(()),
            ArtifactGenerator::Sources(sources, body) => {
                let mut inner = scope.clone();
                inner.sources.push(sources);
                self.body(body, &inner)
            }
            ArtifactGenerator::Let(bindings, body) => {
                let bindings: Vec<_> = bindings.iter().map(|(name, value)| (name, value)).collect();
                self.body(body, &scope.with(&bindings)?)
            }
            ArtifactGenerator::LetX(bindings, body) => {
                self.product(bindings, &mut Vec::new(), body, scope)
            }
            ArtifactGenerator::Each(bindings, body) => {
                for row in rows_of(bindings)? {
                    self.body(body, &scope.with(&row)?)?;
                }
                Ok(())
            }
            ArtifactGenerator::EachT(names, rows, body) => {
                if let Some(row) = rows.iter().find(|row| row.len() != names.len()) {
                    return Err(wrong_row(names, row));
                }
                for row in rows {
                    let bindings: Vec<_> = names.iter().zip(row).collect();
                    self.body(body, &scope.with(&bindings)?)?;
                }
                Ok(())
            }
            ArtifactGenerator::Artifact(id, assembly) => self.artifact(&id.name, assembly, scope),
        }
    }

    /// Expands the body for each combination of values; `chosen` has those selected so far.
    fn product<'g>(
        &mut self,
        bindings: &'g [(Text, Vec<Text>)],
        chosen: &mut Vec<(&'g Text, &'g Text)>,
        body: &'g [ArtifactGenerator],
        scope: &Scope<'g>,
    ) -> Result<(), Fault> {
        let Some((name, values)) = bindings.get(chosen.len()) else {
            return self.body(body, &scope.with(chosen)?);
        };
        // If a later variable has no values, there is no combination at all.
        if bindings.iter().any(|(_, values)| values.is_empty()) {
            return Ok(());
        }
        for value in values {
            chosen.push((name, value));
            self.product(bindings, chosen, body, scope)?;
            chosen.pop();
        }
        Ok(())
    }

    fn artifact(
        &mut self,
        id: &Text,
        assembly: &ArtifactAssembly,
        scope: &Scope<'_>,
    ) -> Result<(), Fault> {
        let mut environment = scope.environment.clone();
        let id = environment.expand(id)?;
        let name = Text { text: "instance_id".into(), at: id.at };
        environment.bind(&name, id.text.clone())?;
        let sources = sources::gather(&scope.sources, &environment)?;
        let assembly = assembly::expand(assembly, &environment)?;
        if self.instances.len() >= INSTANCES_MAX {
            let message = format!("the file makes more than {INSTANCES_MAX} artifacts");
            return Err(Fault::new(id.at, message));
        }
        self.instances.push(Instance { id, environment, sources, assembly });
        Ok(())
    }
}

/// The rows of bindings that an `Each` produces.
fn rows_of(bindings: &[(Text, Vec<Text>)]) -> Result<Vec<Vec<(&Text, &Text)>>, Fault> {
    let lengths: BTreeMap<usize, &Text> =
        bindings.iter().map(|(name, values)| (values.len(), name)).collect();
    let mut lengths = lengths.into_iter();
    let (first, second) = (lengths.next(), lengths.next());
    let Some((length, _)) = first.filter(|_| second.is_none()) else {
        let at: Option<Place> = bindings.first().map(|(name, _)| name.at);
        let shown = Shown::List(
            bindings
                .iter()
                .map(|(name, values)| Shown::Tuple(vec![name.shown(), values.shown()]))
                .collect(),
        );
        let message = format!(
            "B9 internal error: Error in 'Each' binding: \n{}\nAll value lists must have the same length!",
            shown.laid_out()
        );
        return Err(Fault::new(at, message));
    };
    let row = |index: usize| bindings.iter().map(|(name, values)| (name, &values[index])).collect();
    Ok((0..length).map(row).collect())
}

fn wrong_row(names: &[Text], row: &[Text]) -> Fault {
    let list = |texts: &[Text]| Shown::List(texts.iter().map(Term::shown).collect()).laid_out();
    let message = format!(
        "B9 internal error: Error in 'Each' binding during artifact generation in:\nThe variable list\n{}\n has {} entries, but this binding set\n{}\n\nhas a different number of entries!",
        list(names),
        names.len(),
        list(row),
    );
    Fault::new(row.first().or(names.first()).map(|text| text.at), message)
}
