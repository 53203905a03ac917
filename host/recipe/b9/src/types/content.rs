//! The content of generated files: text, bytes, and trees of YAML and Erlang terms.

use std::fmt::Debug;

use crate::{
    erlang,
    haskell::{Application, Bytes, Kind, Shown, Term, Value, terms},
    place::{Fault, Text},
    yaml::{self, Yaml},
};

terms! {
    /// The content of a generated file.
    pub enum Content = "Content" {
        /// An Erlang term.
        RenderErlang = "RenderErlang"(tree: Box<Ast<ErlangPropList>>),
        /// A YAML document.
        RenderYamlObject = "RenderYamlObject"(tree: Box<Ast<YamlLiteral>>),
        /// A YAML document for cloud-init, with its first line.
        RenderCloudConfig = "RenderCloudConfig"(tree: Box<Ast<CloudConfig>>),
        /// Literal bytes.
        FromByteString = "FromByteString"(bytes: Bytes),
        /// Literal text.
        FromString = "FromString"(text: Text),
        /// The text of a file.
        FromTextFile = "FromTextFile"(file: SourceFile),
        /// The content of a file, encoded in base64.
        RenderBase64BinaryFile = "RenderBase64BinaryFile"(path: Text),
        /// Bytes, encoded in base64.
        RenderBase64Binary = "RenderBase64Binary"(bytes: Bytes),
        /// The content of a URL.
        FromUrl = "FromURL"(url: Text),
    }
}

terms! {
    /// A source file.
    pub struct SourceFile = "SourceFile"("Source") {
        /// How its text is converted.
        conversion: SourceConversion,
        /// Its path, a template.
        path: Text,
    }
}

terms! {
    /// The conversion of a file's text.
    #[derive(Copy, PartialEq, Eq)]
    pub enum SourceConversion = "SourceFileConversion" {
        /// The text is unchanged.
        NoConversion = "NoConversion",
        /// Variables are replaced.
        ExpandVariables = "ExpandVariables",
    }
}

/// A tree that is rendered to a document of language `L`.
#[derive(Debug, Clone)]
pub enum Ast<L> {
    /// Keys and values.
    Obj(Vec<(Text, Ast<L>)>),
    /// A list.
    Arr(Vec<Ast<L>>),
    /// Trees that are merged, left to right.
    Merge(Vec<Ast<L>>, crate::place::Place),
    /// Content as a string.
    Embed(Box<Content>),
    /// A string.
    String(Text),
    /// A number.
    Int(i64),
    /// A file in the language.
    Parse(SourceFile),
    /// A literal of the language.
    Literal(L),
}

/// A literal of a language, embedded in a term.
pub(crate) trait Literal: Sized + Debug + Clone {
    /// Parses it from the atoms after `AST`.
    ///
    /// # Errors
    /// Fails if they are invalid.
    fn read_behind(application: &mut Application<'_>) -> Result<Self, Fault>;

    /// The arguments of `AST`, for printing.
    fn shown(&self) -> Vec<Shown>;
}

const AST: &[&str] =
    &["ASTObj", "ASTArr", "ASTMerge", "ASTEmbed", "ASTString", "ASTInt", "ASTParse", "AST"];

impl<L: Literal> Term for Ast<L> {
    fn type_name() -> String {
        "AST".into()
    }
    fn read(value: Value<'_>) -> Result<Self, Fault> {
        let mut application = value.application("AST", AST)?;
        let at = value.bare().at();
        let tree = match application.name {
            "ASTObj" => Self::Obj(application.argument()?),
            "ASTArr" => Self::Arr(application.argument()?),
            "ASTMerge" => Self::Merge(application.argument()?, at),
            "ASTEmbed" => Self::Embed(application.argument()?),
            "ASTString" => Self::String(application.argument()?),
            "ASTInt" => Self::Int(application.argument()?),
            "ASTParse" => Self::Parse(application.argument()?),
            "AST" => Self::Literal(L::read_behind(&mut application)?),
            _ => return Err(application.unknown("AST", AST)),
        };
        application.end()?;
        Ok(tree)
    }

    fn shown(&self) -> Shown {
        let (name, arguments) = match self {
            Self::Obj(entries) => ("ASTObj", vec![entries.shown()]),
            Self::Arr(items) => ("ASTArr", vec![items.shown()]),
            Self::Merge(trees, _) => ("ASTMerge", vec![trees.shown()]),
            Self::Embed(content) => ("ASTEmbed", vec![content.shown()]),
            Self::String(text) => ("ASTString", vec![text.shown()]),
            Self::Int(number) => ("ASTInt", vec![number.shown()]),
            Self::Parse(file) => ("ASTParse", vec![file.shown()]),
            Self::Literal(literal) => ("AST", literal.shown()),
        };
        Shown::Constructor(name, arguments)
    }
}

/// `YamlObject "…"`: a YAML document.
#[derive(Debug, Clone)]
pub struct YamlLiteral(pub Yaml);

const YAML_LITERAL: &str = "`YamlObject \"…\"`";

impl YamlLiteral {
    /// Parses a row of `YamlObject` and a string. As an argument of `AST` it has no parentheses in
    /// B9; as an extension, parentheses are accepted too.
    fn read_row(value: Value<'_>) -> Result<Self, Fault> {
        let mut application = value.application("YamlObject", &[YAML_LITERAL])?;
        if application.name != "YamlObject" {
            return Err(application.unknown("YamlObject", &["YamlObject"]));
        }
        let text: Text = application.argument()?;
        application.end()?;
        let document = yaml::read(&text).map_err(|error| {
            let shown = crate::place::excerpt(&text, error.at);
            Fault::new(text.at, format!("the YAML text: {error}\n{shown}"))
        })?;
        Ok(Self(document))
    }

    fn arguments(&self) -> Vec<Shown> {
        vec![Shown::Constructor("YamlObject", Vec::new()), Shown::text(&yaml::write(&self.0))]
    }
}

impl Literal for YamlLiteral {
    fn read_behind(application: &mut Application<'_>) -> Result<Self, Fault> {
        Self::read_row(application.rest())
    }

    fn shown(&self) -> Vec<Shown> {
        self.arguments()
    }
}

/// `MkCloudConfigYaml {fromCloudConfigYaml = YamlObject "…"}`.
#[derive(Debug, Clone)]
pub struct CloudConfig(pub Yaml);

const RECORD: &str = "MkCloudConfigYaml";
const FIELD: &str = "fromCloudConfigYaml";

impl Literal for CloudConfig {
    fn read_behind(application: &mut Application<'_>) -> Result<Self, Fault> {
        let value = application.rest().field(RECORD, FIELD)?;
        Ok(Self(YamlLiteral::read_row(value)?.0))
    }

    fn shown(&self) -> Vec<Shown> {
        let text = Shown::text(&yaml::write(&self.0));
        let value = Shown::Constructor("YamlObject", vec![text]);
        vec![Shown::Record(RECORD, FIELD, Box::new(value))]
    }
}

terms! {
    /// An Erlang term of any kind.
    pub struct ErlangPropList = "ErlangPropList"("ErlangPropList") {
        /// The term.
        term: erlang::Term,
    }
}

impl Literal for ErlangPropList {
    fn read_behind(application: &mut Application<'_>) -> Result<Self, Fault> {
        application.argument()
    }

    fn shown(&self) -> Vec<Shown> {
        vec![Term::shown(self)]
    }
}

impl Term for bool {
    fn type_name() -> String {
        "Bool".into()
    }
    fn read(value: Value<'_>) -> Result<Self, Fault> {
        match value.single() {
            Some(Kind::Word("True")) => Ok(true),
            Some(Kind::Word("False")) => Ok(false),
            _ => {
                let application = value.application("Bool", &["True", "False"])?;
                application.end()?;
                Err(application.unknown("Bool", &["True", "False"]))
            }
        }
    }

    fn shown(&self) -> Shown {
        Shown::Constructor(if *self { "True" } else { "False" }, Vec::new())
    }
}
