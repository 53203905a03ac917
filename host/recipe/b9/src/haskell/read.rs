//! From the tree to typed values: constructors, their arguments, and what is said when
//! they are not what the type wants.

use super::{
    Term,
    tree::{self, Atom, Expr, Kind},
};
use yaml_tree::nearest;

use crate::place::{Fault, Place};

/// How many brackets may be open at once. Real files have some twenty; the stack of a
/// thread has room for several times as many.
pub const NESTING_MAX: usize = 320;

/// The largest file that is read: three times what takes a second on a slow machine.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// Reads a value from the text of a file.
///
/// # Errors
/// The first thing in the text that is not as the type wants it.
pub(crate) fn read<T: Term>(text: &str, file: u32) -> Result<T, Fault> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has more than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(Fault::new(Place { file, offset: 0 }, message));
    }
    let expr = tree::parse(text, file)?;
    T::read(Value { atoms: &expr.atoms, end: expr.end, file, outermost: true })
}

/// A row of atoms that shall be a value of some type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'t> {
    pub(crate) atoms: &'t [Atom<'t>],
    /// Where it ends.
    end: u32,
    file: u32,
    /// Whether it is the whole file.
    outermost: bool,
}

impl<'t> Value<'t> {
    fn of(expr: &'t Expr<'t>, file: u32) -> Self {
        Self { atoms: &expr.atoms, end: expr.end, file, outermost: false }
    }

    /// The row without parentheses around all of it.
    pub(crate) fn bare(mut self) -> Self {
        while let [Atom { kind: Kind::Group(parts), .. }] = self.atoms
            && let [inner] = parts.as_slice()
        {
            self = Self::of(inner, self.file);
        }
        self
    }

    /// The row's only atom, without parentheses; of a longer row nothing.
    pub(crate) fn single(self) -> Option<&'t Kind<'t>> {
        match self.bare().atoms {
            [atom] => Some(&atom.kind),
            _ => None,
        }
    }

    /// Where it begins.
    pub(crate) fn at(self) -> Place {
        let offset = self.atoms.first().map_or(self.end, |atom| atom.at);
        Place { file: self.file, offset }
    }

    pub(crate) fn place(self, offset: u32) -> Place {
        Place { file: self.file, offset }
    }

    /// Says that this is no value of a type.
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
    /// When it is no list.
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

    /// The two parts of a pair.
    ///
    /// # Errors
    /// When it is no pair.
    pub(crate) fn pair(self, of: fn() -> String) -> Result<(Self, Self), Fault> {
        match self.single() {
            Some(Kind::Group(parts)) if let [first, second] = parts.as_slice() => {
                Ok((Self::of(first, self.file), Self::of(second, self.file)))
            }
            _ => Err(self.unexpected(&article(&of()))),
        }
    }

    /// The value of the one field of a record.
    ///
    /// # Errors
    /// When it is another record, or none.
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

    /// The constructor that the value begins with.
    ///
    /// # Errors
    /// When it begins with anything else.
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

/// The name of a type with its article.
pub(crate) fn article(of: &str) -> String {
    let vowel = of.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o']);
    format!("{} {of}", if vowel { "an" } else { "a" })
}

/// A constructor and what stands behind it.
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
    /// When there is none, or it is of another type.
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

    /// What an older B9 took in this place.
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

    /// All atoms behind the constructor.
    pub(crate) fn rest(&mut self) -> Value<'t> {
        let atoms = &self.arguments[self.read..];
        self.read = self.arguments.len();
        Value { atoms, end: self.value.end, file: self.value.file, outermost: false }
    }

    /// Whether no argument is left.
    ///
    /// # Errors
    /// When one is.
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

    /// Says that the type has no such constructor.
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

/// What became of names that older versions of B9 had.
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
