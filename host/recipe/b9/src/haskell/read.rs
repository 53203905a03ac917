//! Converts the tree to typed values: constructors and arguments, and the messages if they do not
//! match the type.

use super::{
    Term,
    tree::{self, Atom, Expr, Kind},
};
use yaml_tree::nearest;

use crate::place::{Fault, Place};

/// Maximum nesting of brackets. Real files have some twenty levels; a thread's stack has room for
/// several times this limit.
pub const NESTING_MAX: usize = 320;

/// Maximum size of a file: three times what takes a second on a slow machine.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// Parses a value from the text of a file.
///
/// # Errors
/// Fails at the first position that does not match the type.
pub(crate) fn read<T: Term>(text: &str, file: u32) -> Result<T, Fault> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has more than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(Fault::new(Place { file, offset: 0 }, message));
    }
    let expr = tree::parse(text, file)?;
    T::read(Value { atoms: &expr.atoms, end: expr.end, file, outermost: true })
}

/// A row of atoms to be read as a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'t> {
    pub(crate) atoms: &'t [Atom<'t>],
    /// The offset in the file at which the row ends.
    end: u32,
    file: u32,
    /// Whether it is the whole file.
    outermost: bool,
}

impl<'t> Value<'t> {
    fn of(expr: &'t Expr<'t>, file: u32) -> Self {
        Self { atoms: &expr.atoms, end: expr.end, file, outermost: false }
    }

    /// Removes parentheses around the whole row.
    pub(crate) fn bare(mut self) -> Self {
        while let [Atom { kind: Kind::Group(parts), .. }] = self.atoms
            && let [inner] = parts.as_slice()
        {
            self = Self::of(inner, self.file);
        }
        self
    }

    /// The only atom of the row, without parentheses; `None` for a longer row.
    pub(crate) fn single(self) -> Option<&'t Kind<'t>> {
        match self.bare().atoms {
            [atom] => Some(&atom.kind),
            _ => None,
        }
    }

    /// The position at which the row starts; for an empty row, its end.
    pub(crate) fn at(self) -> Place {
        let offset = self.atoms.first().map_or(self.end, |atom| atom.at);
        Place { file: self.file, offset }
    }

    pub(crate) fn place(self, offset: u32) -> Place {
        Place { file: self.file, offset }
    }

    /// The fault that this is not a value of the expected type.
    pub(crate) fn unexpected(self, expected: &str) -> Fault {
        let value = self.bare();
        let Some(first) = value.atoms.first() else {
            return Fault::new(value.at(), format!("{expected} is missing"));
        };
        let message = format!("found {} where {expected} was expected", first.kind.describe());
        Fault::new(value.at(), message)
    }

    /// The items of a list.
    ///
    /// # Errors
    /// Fails if it is not a list.
    pub(crate) fn items(
        self,
        of: fn() -> String,
    ) -> Result<impl Iterator<Item = Self> + use<'t>, Fault> {
        let file = self.file;
        match self.single() {
            Some(Kind::List(items)) => Ok(items.iter().map(move |item| Self::of(item, file))),
            _ => {
                let fault = self.unexpected(&article(&of()));
                Err(fault.hint("a list is written [a, b]; one item is [a], none is []"))
            }
        }
    }

    /// The two elements of a pair.
    ///
    /// # Errors
    /// Fails if it is not a pair.
    pub(crate) fn pair(self, of: fn() -> String) -> Result<(Self, Self), Fault> {
        match self.single() {
            Some(Kind::Group(parts)) if let [first, second] = parts.as_slice() => {
                Ok((Self::of(first, self.file), Self::of(second, self.file)))
            }
            _ => Err(self.unexpected(&article(&of()))),
        }
    }

    /// The value of a record's only field.
    ///
    /// # Errors
    /// Fails if it is not this record.
    pub(crate) fn field(self, name: &str, field: &str) -> Result<Self, Fault> {
        let expected = format!("`{name} {{{field} = …}}`");
        match self.single() {
            Some(Kind::Record(found, fields)) if *found == name => match fields.as_slice() {
                [(found, value)] if *found == field => Ok(Self::of(value, self.file)),
                _ => Err(self.unexpected(&expected)),
            },
            _ => Err(self.unexpected(&expected)),
        }
    }

    /// The constructor at the start of the value.
    ///
    /// # Errors
    /// Fails if it starts with anything else.
    pub(crate) fn application(self, of: &str, known: &[&str]) -> Result<Application<'t>, Fault> {
        let value = self.bare();
        match value.atoms {
            [Atom { kind: Kind::Word(name), .. }, arguments @ ..] => {
                Ok(Application { name, arguments, read: 0, value })
            }
            _ => {
                let expected = format!("{} ({})", article(of), known.join(", "));
                let fault = value.unexpected(&expected);
                Err(match value.atoms {
                    [Atom { kind: Kind::Group(_), .. }, ..] => {
                        fault.hint("parentheses go around a constructor with all its arguments")
                    }
                    _ => fault,
                })
            }
        }
    }
}

/// The name of a type with its indefinite article.
pub(crate) fn article(of: &str) -> String {
    let vowel = of.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o']);
    format!("{} {of}", if vowel { "an" } else { "a" })
}

/// A constructor and the atoms after it.
#[derive(Debug)]
pub(crate) struct Application<'t> {
    pub(crate) name: &'t str,
    arguments: &'t [Atom<'t>],
    read: usize,
    value: Value<'t>,
}

impl<'t> Application<'t> {
    /// The next argument.
    ///
    /// # Errors
    /// Fails if there is none, or if it has another type.
    pub(crate) fn argument<T: Term>(&mut self) -> Result<T, Fault> {
        let Some(atom) = self.arguments.get(self.read) else {
            let alone = self.arguments.is_empty() && !self.value.outermost;
            let fault = Fault::new(
                if alone { self.value.at() } else { self.value.place(self.value.end) },
                format!(
                    "`{}` lacks its argument {}, {}",
                    self.name,
                    self.read + 1,
                    article(&T::type_name())
                ),
            );
            return Err(if alone { fault.hint(self.parentheses()) } else { fault });
        };
        self.read += 1;
        let atoms = std::slice::from_ref(atom);
        let end = self.arguments.get(self.read).map_or(self.value.end, |next| next.at);
        let value = Value { atoms, end, file: self.value.file, outermost: false };
        T::read(value).map_err(|fault| self.explain(atom, fault))
    }

    fn parentheses(&self) -> String {
        format!(
            "a constructor with arguments is an argument only in parentheses: ({} …)",
            self.name
        )
    }

    /// Adds a hint to the fault if an older B9 accepted this atom here.
    fn explain(&self, atom: &Atom<'_>, fault: Fault) -> Fault {
        let hint = match (self.name, self.read, &atom.kind) {
            ("VmScript", 1, Kind::Text(_)) => "since B9 0.2.5 a VmScript has no name",
            ("FromFile", 2, Kind::Text(_)) => {
                "write (Source NoConversion \"path\") or (Source ExpandVariables \"path\")"
            }
            _ => return fault,
        };
        if fault.hint.is_some() { fault } else { fault.hint(hint) }
    }

    /// All remaining atoms.
    pub(crate) fn rest(&mut self) -> Value<'t> {
        let atoms = &self.arguments[self.read..];
        self.read = self.arguments.len();
        Value { atoms, end: self.value.end, file: self.value.file, outermost: false }
    }

    /// Checks that no argument is left.
    ///
    /// # Errors
    /// Fails if one is left.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        let Some(extra) = self.arguments.get(self.read) else { return Ok(()) };
        let takes = match self.read {
            0 => "no argument".to_owned(),
            1 => "one argument".to_owned(),
            n => format!("{n} arguments"),
        };
        let message =
            format!("found {} behind `{}`, which takes {takes}", extra.kind.describe(), self.name);
        let fault = Fault::new(self.value.place(extra.at), message);
        Err(match &extra.kind {
            Kind::Word(_) if self.value.outermost => {
                fault.hint("a file holds one value; several are joined as `Let [] [a, b]`")
            }
            Kind::Word(_) => fault.hint("items of a list are separated by commas"),
            _ => fault,
        })
    }

    /// The fault that the type has no such constructor.
    pub(crate) fn unknown(&self, of: &str, known: &[&str]) -> Fault {
        let message = format!(
            "found {} where {} was expected ({})",
            Kind::Word(self.name).describe(),
            article(of),
            known.join(", ")
        );
        let fault = Fault::new(self.value.at(), message);
        if let Some(hint) = old_name(self.name, of) {
            return fault.hint(hint);
        }
        match nearest(self.name, known) {
            Some(known) => fault.hint(format!("`{known}` was probably meant")),
            None => fault,
        }
    }
}

/// The replacement of a name that older versions of B9 had.
fn old_name(name: &str, of: &str) -> Option<&'static str> {
    match (name, of) {
        ("RenderYaml", _) => Some(
            "`RenderYaml` was replaced in B9 0.5.62: by RenderCloudConfig for user-data, by RenderYamlObject for all else",
        ),
        ("Concatenation", _) => Some(
            "`Concatenation` was removed in B9 0.5.62; the parts can be joined with ASTMerge, or in one file",
        ),
        ("B", "SizeUnit") => Some("the unit `B` was removed in B9 0.5.69: KB is the smallest"),
        ("VmImagesPostFix", _) => Some("it is called VmImagesWithFixup"),
        _ => None,
    }
}
