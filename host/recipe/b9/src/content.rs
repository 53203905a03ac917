//! Renders the content of generated files to bytes: text and base64, YAML and Erlang documents.

use std::io;

use crate::{
    environment::Environment,
    erlang,
    place::{Fault, Place, Text, excerpt},
    types::{Ast, CloudConfig, Content, ErlangPropList, SourceConversion, SourceFile, YamlLiteral},
    yaml::{self, Yaml},
};

/// The sources of content.
pub trait Inputs {
    /// Reads a file. A relative path refers to the current directory.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// Fetches a URL.
    ///
    /// # Errors
    /// Fails with the reason as text.
    fn fetch(&self, url: &str) -> Result<Vec<u8>, String>;
}

/// Renders content with the variables of an artifact.
pub struct Renderer<'a> {
    /// The source of files and URLs.
    pub inputs: &'a dyn Inputs,
    /// The variables.
    pub environment: &'a Environment,
    /// Warnings so far.
    pub warnings: Vec<Fault>,
}

impl std::fmt::Debug for Renderer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renderer").field("environment", &self.environment).finish_non_exhaustive()
    }
}

impl Renderer<'_> {
    /// The bytes of a generated file.
    ///
    /// # Errors
    /// Fails on content that cannot be read or rendered.
    pub fn content(&mut self, content: &Content) -> Result<Vec<u8>, Fault> {
        match content {
            Content::FromUrl(url) => self.fetch(url),
            Content::RenderBase64Binary(bytes) => Ok(base64(&bytes.0).into_bytes()),
            Content::RenderBase64BinaryFile(path) => {
                Ok(base64(&self.file_bytes(path)?).into_bytes())
            }
            Content::FromString(text) => {
                self.warn_of_variable(text);
                Ok(text.text.clone().into_bytes())
            }
            Content::FromByteString(bytes) => match std::str::from_utf8(&bytes.0) {
                Ok(text) => Ok(text.to_owned().into_bytes()),
                Err(error) => {
                    let message = format!("renderToText of the ByteString failed: {error}");
                    let fault = Fault::new(None, message);
                    Err(fault
                        .hint("FromByteString takes UTF-8; RenderBase64Binary takes any bytes"))
                }
            },
            Content::FromTextFile(file) => self.text_file(file).map(String::into_bytes),
            Content::RenderErlang(tree) => {
                let term = self.tree::<Erlang>(tree)?;
                Ok(erlang::write(&term).into_bytes())
            }
            Content::RenderYamlObject(tree) => {
                let document = self.tree::<PlainYaml>(tree)?;
                Ok(yaml::write(&document).into_bytes())
            }
            Content::RenderCloudConfig(tree) => {
                let document = self.tree::<CloudConfigYaml>(tree)?;
                Ok(yaml::write_cloud_config(&document).into_bytes())
            }
        }
    }

    /// The bytes of a copied file: unchanged, unless variables are to be expanded.
    ///
    /// # Errors
    /// Fails on a file that cannot be read or expanded.
    pub fn file(&mut self, path: &Text, conversion: SourceConversion) -> Result<Vec<u8>, Fault> {
        let path = self.environment.expand(path)?;
        match conversion {
            SourceConversion::NoConversion => self.file_bytes(&path),
            SourceConversion::ExpandVariables => self.expanded(&path).map(String::into_bytes),
        }
    }

    fn file_bytes(&self, path: &Text) -> Result<Vec<u8>, Fault> {
        self.inputs
            .read(path)
            .map_err(|error| Fault::new(path.at, format!("cannot read `{}`: {error}", path.text)))
    }

    fn text_file(&mut self, file: &SourceFile) -> Result<String, Fault> {
        let path = self.environment.expand(&file.path)?;
        match file.conversion {
            SourceConversion::NoConversion => self.utf8(&path),
            SourceConversion::ExpandVariables => self.expanded(&path),
        }
    }

    fn utf8(&self, path: &Text) -> Result<String, Fault> {
        String::from_utf8(self.file_bytes(path)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message =
                format!("`{}` is not UTF-8 text: byte {at} begins no character", path.text);
            Fault::new(path.at, message).hint("FromFile with NoConversion copies any bytes")
        })
    }

    fn expanded(&self, path: &Text) -> Result<String, Fault> {
        let text = self.utf8(path)?;
        self.environment.expand_str(&text).map_err(|error| {
            // The whole text would make the message unreadable.
            let (message, shown) = match &error {
                crate::TemplateError::Syntax { at, .. } => {
                    (format!("{at}: Invalid template"), format!("\n{}", excerpt(&text, *at)))
                }
                crate::TemplateError::Unknown { .. } => (error.to_string(), String::new()),
            };
            Fault::new(path.at, format!("in `{}`: {message}{shown}", path.text)).hint(error.hint())
        })
    }

    fn fetch(&self, url: &Text) -> Result<Vec<u8>, Fault> {
        self.inputs
            .fetch(url)
            .map_err(|error| Fault::new(url.at, format!("cannot fetch `{}`: {error}", url.text)))
    }

    fn warn_of_variable(&mut self, text: &Text) {
        if let Some(name) = crate::template::braced_variable(text)
            && self.environment.get(name).is_some()
        {
            let message =
                format!("${{{name}}} stays as it is here: no variable is expanded in this string");
            let fault = Fault::new(text.at, message);
            self.warnings
                .push(fault.hint("FromTextFile (Source ExpandVariables \"file\") expands"));
        }
    }

    /// Evaluates a tree in a language.
    fn tree<L: Language>(&mut self, tree: &Ast<L::Literal>) -> Result<L::Value, Fault> {
        match tree {
            Ast::Obj(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((key.text.clone(), self.tree::<L>(value)?)));
                Ok(L::object(entries.collect::<Result<_, Fault>>()?))
            }
            Ast::Arr(items) => {
                let items: Result<_, Fault> =
                    items.iter().map(|item| self.tree::<L>(item)).collect();
                Ok(L::array(items?))
            }
            Ast::Merge(trees, at) => {
                let mut merged: Option<L::Value> = None;
                for tree in trees {
                    let value = self.tree::<L>(tree)?;
                    merged = Some(match merged {
                        None => value,
                        Some(left) => L::merge(left, value, *at, &mut self.warnings),
                    });
                }
                merged.ok_or_else(|| empty_merge(*at))
            }
            Ast::Embed(content) => {
                let bytes = self.content(content)?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| Fault::new(None, "what ASTEmbed embeds is not UTF-8 text"))?;
                Ok(L::string(text))
            }
            Ast::String(text) => {
                self.warn_of_variable(text);
                Ok(L::string(text.text.clone()))
            }
            Ast::Int(number) => Ok(L::number(*number)),
            Ast::Parse(file) => {
                let path = self.environment.expand(&file.path)?;
                let text = self.text_file(file)?;
                L::parse(&text, &path, &mut self.warnings)
            }
            Ast::Literal(literal) => Ok(L::literal(literal)),
        }
    }
}

pub(crate) fn empty_merge(at: Place) -> Fault {
    Fault::new(at, "ASTMerge MUST NOT be used with an empty list!")
}

/// A language of documents that trees are rendered to.
trait Language {
    /// The literals that follow `AST`.
    type Literal;
    /// A document.
    type Value;

    fn object(entries: Vec<(String, Self::Value)>) -> Self::Value;
    fn array(items: Vec<Self::Value>) -> Self::Value;
    fn string(text: String) -> Self::Value;
    fn number(number: i64) -> Self::Value;
    fn literal(literal: &Self::Literal) -> Self::Value;
    fn merge(
        left: Self::Value,
        right: Self::Value,
        at: Place,
        warnings: &mut Vec<Fault>,
    ) -> Self::Value;
    fn parse(text: &str, path: &Text, warnings: &mut Vec<Fault>) -> Result<Self::Value, Fault>;
}

/// The common part of YAML and of cloud-init documents.
macro_rules! yaml_language {
    ($name:ident, $literal:ty, $text:expr) => {
        struct $name;

        impl Language for $name {
            type Literal = $literal;
            type Value = Yaml;

            fn object(entries: Vec<(String, Yaml)>) -> Yaml {
                Yaml::Map(entries.into_iter().collect())
            }

            fn array(items: Vec<Yaml>) -> Yaml {
                Yaml::List(items)
            }

            fn string(text: String) -> Yaml {
                Yaml::Text(text)
            }

            fn number(number: i64) -> Yaml {
                Yaml::Number(number.into())
            }

            fn literal(literal: &$literal) -> Yaml {
                literal.0.clone()
            }

            fn merge(left: Yaml, right: Yaml, at: Place, warnings: &mut Vec<Fault>) -> Yaml {
                let mut joined = Vec::new();
                let merged = yaml::merge(left, right, &mut joined);
                warnings.extend(joined.iter().map(|key| joined_strings(at, key)));
                merged
            }

            fn parse(text: &str, path: &Text, _: &mut Vec<Fault>) -> Result<Yaml, Fault> {
                let text: &str = $text(text);
                yaml::read(text).map_err(|error| {
                    let shown = excerpt(text, error.at);
                    let name = &path.text;
                    let message = format!(
                        "could not parse yaml source file: '{name}'\n{name}: {error}\n{shown}"
                    );
                    Fault::new(path.at, message)
                })
            }
        }
    };
}

yaml_language!(PlainYaml, YamlLiteral, std::convert::identity);
yaml_language!(CloudConfigYaml, CloudConfig, yaml::without_cloud_config_line);

fn joined_strings(at: Place, key: &str) -> Fault {
    let place = if key.is_empty() { "at the top".to_owned() } else { format!("under `{key}`") };
    Fault::new(
        at,
        format!("ASTMerge put two strings together {place}, without anything between them"),
    )
    .hint("to replace a value, leave it out of the first part; to add one, make it a list")
}

struct Erlang;

impl Language for Erlang {
    type Literal = ErlangPropList;
    type Value = erlang::Term;

    fn object(entries: Vec<(String, erlang::Term)>) -> erlang::Term {
        let pair = |(key, value)| erlang::Term::Tuple(vec![erlang::Term::Atom(key), value]);
        erlang::Term::List(entries.into_iter().map(pair).collect())
    }

    fn array(items: Vec<erlang::Term>) -> erlang::Term {
        erlang::Term::List(items)
    }

    fn string(text: String) -> erlang::Term {
        erlang::Term::String(text)
    }

    fn number(number: i64) -> erlang::Term {
        erlang::Term::String(number.to_string())
    }

    fn literal(literal: &ErlangPropList) -> erlang::Term {
        literal.term.clone()
    }

    fn merge(
        left: erlang::Term,
        right: erlang::Term,
        _: Place,
        _: &mut Vec<Fault>,
    ) -> erlang::Term {
        erlang::merge(left, right)
    }

    fn parse(text: &str, path: &Text, warnings: &mut Vec<Fault>) -> Result<erlang::Term, Fault> {
        let name = &path.text;
        let read = erlang::read(text).map_err(|error| {
            let shown = excerpt(text, error.at);
            let message =
                format!("could not parse erlang source file: '{name}'\n{name} {error}\n{shown}");
            Fault::new(path.at, message)
        })?;
        if read.more {
            let message = format!("`{name}`: what stands behind the first term is not read");
            warnings.push(Fault::new(path.at, message));
        }
        Ok(read.term)
    }
}

/// Encodes base64 as in RFC 4648, with padding, on one line.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let sextet = (bits >> (18 - 6 * index)) as usize & 63;
            let padding = index > chunk.len();
            text.push(if padding { '=' } else { char::from(ALPHABET[sextet]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded_and_unbroken() {
        let encode = |text: &str| base64(text.as_bytes());
        assert_eq!(
            [encode(""), encode("f"), encode("fo"), encode("foo"), encode("foobar")],
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYmFy"]
        );
        assert_eq!(base64(&[0xff; 60]), "/".repeat(80));
    }
}
