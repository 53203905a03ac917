//! Renders templates in values as vmdb2 does with Jinja2.
//!
//! Every string value of a step is a template, at any depth; keys are not. All are rendered before
//! anything runs, so results of steps are not visible. Python's view of values shows through, as in
//! Jinja2: a variable without value renders as `None`, `{{ arch }}` has quotes, and an undefined
//! variable is empty.

use std::{collections::BTreeMap, io};

use minijinja::{
    Environment, Error, ErrorKind, Output, State, Value as Jinja, escape_formatter,
    value::ValueKind,
};

use crate::yaml::{Node, Position, Value, repr_text};

/// Limit on the work of one template, in minijinja's fuel units of about one instruction. Real
/// templates need tens; the limit stops endless ones within a second.
const FUEL: u64 = 1_000_000;

/// Maximum length of one rendered template.
const RENDERED_MAX_BYTES: usize = 8 << 20;

/// The variables of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    values: BTreeMap<String, Option<String>>,
}

impl Variables {
    /// The variables that every run has: paths as given on the command line, and those in which
    /// vmdb2 exposes its own state.
    #[must_use]
    pub fn new(
        output: Option<&str>,
        image: Option<&str>,
        rootfs_tarball: Option<&str>,
        arch: &str,
    ) -> Self {
        let mut values = BTreeMap::new();
        let mut set = |name: &str, value: Option<String>| values.insert(name.to_owned(), value);
        set("output", output.map(str::to_owned));
        set("image", image.map(str::to_owned));
        set("rootfs_tarball", rootfs_tarball.map(str::to_owned));
        // These two render as the `repr` of Python objects.
        set("arch", Some(repr_text(arch)));
        set("tags", Some("{'tags': {}, 'tagnames': []}".to_owned()));
        Self { values }
    }

    /// Defines a variable from `NAME=VALUE`.
    ///
    /// # Errors
    /// Fails if the text has another form, or defines a variable a second time.
    pub fn define(&mut self, definition: &str) -> Result<(), VariableError> {
        let Some((name, value)) = definition.split_once('=') else {
            return Err(VariableError::Form(definition.to_owned()));
        };
        let value = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => value.trim_matches(quote),
            _ => value,
        };
        // vmdb2 accepts the definition but then uses its own state.
        if matches!(name, "arch" | "tags") {
            return Ok(());
        }
        if self.values.contains_key(name) {
            return Err(VariableError::Duplicate(name.to_owned()));
        }
        self.values.insert(name.to_owned(), Some(value.to_owned()));
        Ok(())
    }
}

/// Why a `--variable` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// Not `NAME=VALUE`.
    #[error("variable `{0}` must have the form NAME=VALUE")]
    Form(String),
    /// The variable is already defined.
    #[error("duplicate definition of variable `{0}`")]
    Duplicate(String),
}

/// Why a value cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// The position of the value.
    pub at: Position,
    /// The message.
    pub message: String,
}

/// Renders all templates in a value.
///
/// # Errors
/// Fails if a template is invalid, or a value has a type that vmdb2 does not accept.
pub fn render(node: &Node, variables: &Variables) -> Result<Node, TemplateError> {
    let mut environment = Environment::new();
    environment.set_formatter(format_as_python);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // Makes error messages name the undefined variable.
    environment.set_debug(true);
    environment.set_fuel(Some(FUEL));
    let context: BTreeMap<&str, Jinja> = variables
        .values
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_ref().map_or(Jinja::from(()), Jinja::from)))
        .collect();
    render_node(node, &environment, &Jinja::from(context))
}

fn render_node(
    node: &Node,
    environment: &Environment<'_>,
    context: &Jinja,
) -> Result<Node, TemplateError> {
    let value = match &node.value {
        Value::Text(text) if !text.contains(['{', '\n']) => Value::Text(text.clone()),
        Value::Text(text) => Value::Text(
            render_text(text, environment, context)
                .map_err(|error| TemplateError { at: node.at, message: describe(&error) })?,
        ),
        Value::Bool(truth) => Value::Bool(*truth),
        Value::Int(number) => Value::Int(*number),
        Value::List(items) => Value::List(
            items
                .iter()
                .map(|item| render_node(item, environment, context))
                .collect::<Result<_, _>>()?,
        ),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), render_node(value, environment, context)?)))
                .collect::<Result<_, TemplateError>>()?,
        ),
        Value::Null | Value::Float(_) | Value::Other(..) => {
            let message =
                format!("a value is {} ({}), which no step takes", node.value.kind(), node.repr());
            return Err(TemplateError { at: node.at, message });
        }
    };
    Ok(Node { at: node.at, value })
}

fn render_text(
    text: &str,
    environment: &Environment<'_>,
    context: &Jinja,
) -> Result<String, Error> {
    let mut rendered = Rendered(Vec::new());
    environment.template_from_str(text)?.render_captured_to(context.clone(), &mut rendered)?;
    // Only text was written.
    Ok(String::from_utf8_lossy(&rendered.0).into_owned())
}

/// The output of a template so far.
struct Rendered(Vec<u8>);

impl io::Write for Rendered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_MAX_BYTES {
            let reason = format!("it gives more than {RENDERED_MAX_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message of a template error, with its line if there are several.
fn describe(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let cause = std::error::Error::source(error);
    let what = match (error.kind(), cause) {
        (ErrorKind::OutOfFuel, _) => "it does not end".to_owned(),
        (ErrorKind::WriteFailure, Some(cause)) => cause.to_string(),
        _ => what,
    };
    match error.line() {
        Some(line) if line > 1 => format!("the template is invalid at its line {line}: {what}"),
        _ => format!("the template is wrong: {what}"),
    }
}

fn format_as_python(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Jinja,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map => {
            out.write_str(&python(value)).map_err(Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// The value as Python's `str()` prints it.
fn python(value: &Jinja) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            format!("[{}]", items.map(|item| python_repr(&item)).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let entries: Vec<String> = keys
                .map(|key| {
                    let item = value.get_item(&key).unwrap_or_default();
                    format!("{}: {}", python_repr(&key), python_repr(&item))
                })
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        _ => value.to_string(),
    }
}

fn python_repr(value: &Jinja) -> String {
    match value.as_str() {
        Some(text) => repr_text(text),
        None => python(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> String {
        let mut variables = Variables::new(Some("out.img"), None, None, "amd64");
        variables.define("suite='bookworm'").unwrap();
        let node = Node { at: Position::default(), value: Value::Text(template.to_owned()) };
        match render(&node, &variables) {
            Ok(node) => node.text().unwrap().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn variables_look_as_in_vmdb2() {
        assert_eq!(rendered("{{ output }} {{ image }}"), "out.img None");
        assert_eq!(rendered("{{ arch }}"), "'amd64'");
        assert_eq!(rendered("{{ tags }}"), "{'tags': {}, 'tagnames': []}");
        assert_eq!(rendered("[{{ nobody }}]"), "[]");
        assert_eq!(rendered("{{ suite }}{% if image %}x{% endif %}"), "bookworm");
        assert_eq!(rendered("{{ 1 == 1 }} {{ ['a', 1] }}"), "True ['a', 1]");
        assert_eq!(rendered("line\n"), "line");
        assert_eq!(rendered("{{ output.split('.')[0] | upper }}"), "OUT");
    }

    #[test]
    fn wrong_templates_say_where() {
        assert_eq!(
            rendered("a\n{{ nobody.x }}"),
            "the template is invalid at its line 2: undefined value: `nobody` is undefined"
        );
        assert!(rendered("{% if %}").starts_with("the template is wrong: syntax error"));
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert_eq!(rendered(endless), "the template is wrong: it does not end");
        let piece = "x".repeat(1000);
        let long = format!("{{% for a in range(50000) %}}{piece}{{% endfor %}}");
        assert_eq!(rendered(&long), "the template is wrong: it gives more than 8388608 bytes");
    }

    #[test]
    fn definitions_are_checked() {
        let mut variables = Variables::new(None, None, None, "amd64");
        assert_eq!(variables.define("a"), Err(VariableError::Form("a".into())));
        assert_eq!(variables.define("output=x"), Err(VariableError::Duplicate("output".into())));
        assert_eq!(variables.define("a=b=c"), Ok(()));
        assert_eq!(variables.values["a"], Some("b=c".into()));
    }

    #[test]
    fn types_that_no_step_takes_are_refused() {
        let document = crate::yaml::read("- 1.5\n").unwrap();
        let error = render(&document.root, &Variables::default()).unwrap_err();
        assert_eq!(error.to_string(), "a value is a float (1.5), which no step takes");
        assert_eq!(error.at, Position { line: 1, column: 3 });
    }
}
