//! Tests that are linked into this program.

use std::borrow::Cow;

use results::HostFacts;
use vm::case::TestCase;
use vm::variant::Set;

use super::{Source, SourceError};
use crate::body::Body;
use crate::registry::architecture;
use crate::test::{Limits, Location, Test};

/// The suite's name.
const NAME: &str = "kvm-conformance";

/// Tests that are linked into this program.
#[derive(Clone, Copy, Debug)]
pub struct Native<'a>(pub &'a [&'static TestCase]);

impl Source for Native<'_> {
    fn tests(&self, _: &HostFacts) -> Result<Vec<Test>, SourceError> {
        Ok(self.0.iter().map(|case| Test::from(*case)).collect())
    }
}

impl From<&'static TestCase> for Test {
    fn from(case: &'static TestCase) -> Self {
        let id = case.name();
        let arch = architecture(&id).unwrap_or("common").to_owned();
        let own = [Some(case.file_group()), case.subject()].into_iter().flatten();
        let groups = own.chain(case.groups.iter().copied()).map(Cow::Borrowed);
        Self {
            groups: groups.chain([Cow::Owned(arch)]).collect(),
            id: id.into(),
            source: NAME.into(),
            location: Location { file: case.file.into(), line: case.line },
            doc: case.doc.into(),
            needs: case.requires.to_vec(),
            weight: case.weight,
            options: case.options.to_vec(),
            limits: Limits::default(),
            policy: None,
            variant: Set::NONE,
            sees: case.sees,
            body: Body::Native(case.run),
        }
    }
}
