//! A spec after reading: typed steps, with all checks that do not need lowering.

use crate::{
    complaint::{Complaint, Source, SpecError, nearest},
    fields::{FieldFault, Fields},
    steps::{Action, KINDS, Kind},
    template::{Variables, render},
    yaml::{self, Node, Position, Value},
};

/// A spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The text, for messages.
    pub source: Source,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Warnings from reading.
    pub warnings: Vec<Complaint>,
    /// The spec as Python prints it, before templates are rendered, which vmdb2 0.41 prints.
    pub repr: String,
}

/// A step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its number in the list, from 1.
    pub number: usize,
    /// The position of the step in the spec.
    pub at: Position,
    /// The key that names it.
    pub name: &'static str,
    /// The flags of `unless`; the step is skipped if all are set.
    pub unless: Option<Vec<String>>,
    /// The typed action.
    pub action: Action,
    /// The positions of its values, by key, for later complaints.
    pub places: Vec<(String, Position)>,
}

impl Step {
    /// `step 4 (mkpart)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("step {} ({})", self.number, self.name)
    }
}

/// Reads a spec and renders its templates.
///
/// # Errors
/// Fails on all errors in the spec.
pub fn read(source: Source, variables: &Variables, lenient: bool) -> Result<Spec, SpecError> {
    let fail = |at, message: String, hint: Option<String>| {
        SpecError::new(&source, vec![Complaint { at, step: None, message, hint }])
    };
    let document =
        yaml::read(&source.text).map_err(|e| fail(e.at, e.message.clone(), e.hint.clone()))?;
    let mut warnings: Vec<Complaint> = document
        .duplicates
        .iter()
        .map(|(key, at)| Complaint {
            at: *at,
            step: None,
            message: format!("the key {key} is given again; this last value counts"),
            hint: None,
        })
        .collect();
    let root = &document.root;
    let Some(steps) = root.get("steps") else {
        let hint = matches!(root.value, Value::Map(_)).then_some("the top level needs `steps:`");
        let message = "a spec is a mapping with a list `steps`".to_owned();
        return Err(fail(root.at, message, hint.map(str::to_owned)));
    };
    let Value::List(nodes) = &steps.value else {
        let message = format!("`steps` is {}, but must be a list", steps.value.kind());
        return Err(fail(steps.at, message, None));
    };
    let mut reader = Reader { lenient, complaints: Vec::new(), warnings: Vec::new() };
    let steps: Vec<Step> = nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| reader.step(index + 1, node, variables))
        .collect();
    reader.unknown_at_top(root, &document.anchored);
    if !reader.complaints.is_empty() {
        return Err(SpecError::new(&source, reader.complaints));
    }
    warnings.extend(reader.warnings);
    Ok(Spec { repr: root.repr(), source, steps, warnings })
}

struct Reader {
    lenient: bool,
    complaints: Vec<Complaint>,
    warnings: Vec<Complaint>,
}

impl Reader {
    fn take(&mut self, step: Option<&str>, fault: FieldFault) {
        let FieldFault { at, message, hint, lenient } = fault;
        let mut complaint = Complaint { at, step: step.map(str::to_owned), message, hint };
        if lenient && self.lenient {
            self.warnings.push(complaint);
            return;
        }
        if lenient {
            complaint = complaint.can_be_passed_over();
        }
        self.complaints.push(complaint);
    }

    /// Reports unknown top-level keys: vmdb2 reads `steps` only, so another key is probably a
    /// mistake, unless it defines an anchor.
    fn unknown_at_top(&mut self, root: &Node, anchored: &[Position]) {
        let Value::Map(entries) = &root.value else { return };
        let others = entries.iter().filter(|(key, _)| key.text() != Some("steps"));
        for (key, _) in others.filter(|(key, _)| !anchored.contains(&key.at)) {
            let fault = FieldFault {
                at: key.at,
                message: format!("unknown key {}", key.repr()),
                hint: Some("a spec has the one key `steps`".into()),
                lenient: true,
            };
            // Anchors need a place for their definition; keys with these prefixes are meant for
            // that.
            if key.text().is_some_and(|name| name.starts_with("x-") || name.starts_with('.')) {
                continue;
            }
            self.take(None, fault);
        }
    }

    fn step(&mut self, number: usize, node: &Node, variables: &Variables) -> Option<Step> {
        let nameless = format!("step {number}");
        let fault = |at, message: String, hint: Option<String>| FieldFault {
            at,
            message,
            hint,
            lenient: false,
        };
        let Value::Map(entries) = &node.value else {
            let message = format!("is {}, but must be a mapping", node.value.kind());
            self.take(Some(&nameless), fault(node.at, message, None));
            return None;
        };
        let keys: Vec<&str> = entries.iter().filter_map(|(key, _)| key.text()).collect();
        let kind = match choose(&keys) {
            Ok(kind) => kind,
            Err((message, hint)) => {
                self.take(Some(&nameless), fault(node.at, message, hint));
                return None;
            }
        };
        let title = format!("step {number} ({})", kind.name);
        let rendered = match render(node, variables) {
            Ok(rendered) => rendered,
            Err(error) => {
                self.take(Some(&title), fault(error.at, error.message, None));
                return None;
            }
        };
        let mut fields = Fields::new(&rendered);
        let action = (kind.read)(&mut fields);
        let unless = fields.unless();
        for fault in fields.finish() {
            self.take(Some(&title), fault);
        }
        let places = entries
            .iter()
            .filter_map(|(key, value)| Some((key.text()?.to_owned(), value.at)))
            .collect();
        Some(Step { number, at: node.at, name: kind.name, unless, action, places })
    }
}

/// The kind of a step with these keys: the one whose name is among them. If several names are, it
/// is the one that no other of these kinds takes as a key.
fn choose(keys: &[&str]) -> Result<&'static Kind, (String, Option<String>)> {
    let mut found: Vec<&'static Kind> =
        KINDS.iter().filter(|kind| keys.contains(&kind.name)).collect();
    let takes = |kind: &Kind, name: &str| kind.other_names.contains(&name);
    let all = found.clone();
    found.retain(|kind| !all.iter().any(|other| takes(other, kind.name)));
    match found[..] {
        [kind] => Ok(kind),
        [] => {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            let meant = keys.iter().find_map(|key| nearest(key, &names));
            let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
            let keys = crate::fields::listed(keys);
            Err((format!("no step has the keys {keys}"), hint))
        }
        _ => {
            let names: Vec<&str> = found.iter().map(|kind| kind.name).collect();
            let names = crate::fields::listed(&names);
            Err((format!("is several steps at once: {names}"), None))
        }
    }
}
