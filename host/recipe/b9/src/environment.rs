//! The variables in scope of an artifact.

use std::collections::BTreeMap;

use crate::{
    haskell::Shown,
    place::{Fault, Text},
    template,
};

/// Variables and their values. A bound variable never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of a run: the positional arguments as `arg_1` and so on, and those that the
    /// run defines.
    #[must_use]
    pub fn new(arguments: &[String], run: &[(&str, &str)]) -> Self {
        let arguments = arguments
            .iter()
            .enumerate()
            .map(|(i, value)| (format!("arg_{}", i + 1), value.clone()));
        let run = run.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self(arguments.chain(run).collect())
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Binds a variable.
    ///
    /// # Errors
    /// Fails if the variable has a different value already.
    pub(crate) fn bind(&mut self, name: &Text, value: String) -> Result<(), Fault> {
        match self.0.get(&name.text) {
            Some(old) if *old != value => Err(duplicate(name, old, &value)),
            _ => {
                self.0.insert(name.text.clone(), value);
                Ok(())
            }
        }
    }

    /// Replaces the variables in a string.
    ///
    /// # Errors
    /// Fails if the template is invalid.
    pub(crate) fn expand(&self, template: &Text) -> Result<Text, Fault> {
        self.expand_str(template)
            .map(|text| template.with(text))
            .map_err(|error| Fault::new(template.at, error.to_string()).hint(error.hint()))
    }

    /// Replaces the variables in a text without a position.
    ///
    /// # Errors
    /// Fails if the template is invalid.
    pub fn expand_str(&self, template: &str) -> Result<String, template::TemplateError> {
        template::substitute(template, |name| self.get(name), || self.0.keys().cloned().collect())
    }
}

fn duplicate(name: &Text, old: &str, new: &str) -> Fault {
    let [key, old, new] = [&name.text, old, new].map(|text| Shown::text(text).one_line());
    let message = format!(
        "MkDuplicateKey {{duplicateKey = {key}, duplicateKeyOldValue = {old}, duplicateKeyNewValue = {new}}}"
    );
    Fault::new(name.at, message)
        .hint("a bound variable cannot get another value, in no inner Let either")
}
