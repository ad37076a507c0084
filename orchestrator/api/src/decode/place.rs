//! Where in an object the decoder is, without allocating.

use std::fmt;

/// A path from the root, linked through the stack.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    pub(super) const ROOT: Place<'static> = Place { parent: None, part: Part::Root };

    pub(super) fn key<'b>(&'b self, name: &'b str) -> Place<'b>
    where
        'a: 'b,
    {
        Place { parent: Some(self), part: Part::Key(name) }
    }

    pub(super) fn index(&self, index: usize) -> Place<'_> {
        Place { parent: Some(self), part: Part::Index(index) }
    }

    pub(super) fn is_root(&self) -> bool {
        matches!(self.part, Part::Root)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Root => Ok(()),
            Part::Key(name) if self.parent.is_none_or(Place::is_root) => f.write_str(name),
            Part::Key(name) => write!(f, ".{name}"),
            Part::Index(index) => write!(f, "[{index}]"),
        }
    }
}
