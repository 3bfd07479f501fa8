//! Reading YAML: the only file that knows the YAML libraries. One makes values of a text, the other
//! knows on which line each of them stands, and is asked where something is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use cli::nearest::nearest;
use marked_yaml::{Node, Span as Marks};
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Why a file cannot be used: what is wrong with it, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    file: String,
    /// From 1.
    line: Option<usize>,
    message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl FileError {
    /// Of no file in particular.
    pub fn new(message: impl fmt::Display) -> Self {
        Self::of("", message)
    }

    /// Of a file as a whole.
    pub fn of(file: &str, message: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), line: None, message: message.to_string() }
    }

    /// At a place of a file with this text.
    pub fn at(file: &str, text: &str, place: &[Step<'_>], message: impl fmt::Display) -> Self {
        Self { line: Lines::of(text).find(place), ..Self::of(file, message) }
    }
}

/// A step on the way to a place in a document.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// To a key of a mapping.
    Key(&'a str),
    /// To an item of a list, from 0.
    Nth(usize),
}

/// The lines that the parts of a document stand on.
#[derive(Debug)]
pub struct Lines(Option<Node>);

impl Lines {
    /// Of this text.
    pub fn of(text: &str) -> Self {
        Self(marked_yaml::parse_yaml(0, text).ok())
    }

    /// The line of the place that these steps lead to from the top.
    pub fn find(&self, place: &[Step<'_>]) -> Option<usize> {
        let mut node = self.0.as_ref()?;
        let mut marks: &Marks = node.span();
        for step in place {
            (marks, node) = match step {
                Step::Key(wanted) => {
                    let mut entries = node.as_mapping()?.iter();
                    entries
                        .find_map(|(key, node)| (&**key == *wanted).then(|| (key.span(), node)))?
                }
                Step::Nth(nth) => {
                    let node = node.as_sequence()?.get(*nth)?;
                    (node.span(), node)
                }
            };
        }
        marks.start().map(|mark| mark.line())
    }
}

/// Parses the text of a file.
///
/// # Errors
///
/// What is wrong with it, and where.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, FileError> {
    if is_blank(text) {
        return Err(FileError::of(file, "there is nothing in it"));
    }
    serde_yaml::from_str(text).map_err(|e| {
        let mut told = e.to_string();
        if let Some(at) = told.rfind(" at line ") {
            told.truncate(at);
        }
        let line = e.location().map(|place| place.line());
        FileError { line, ..FileError::of(file, near_key(&plain(&told))) }
    })
}

/// Whether a text says nothing.
fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'))
}

/// A message without the names of our own types.
fn plain(told: &str) -> String {
    let Some((before, name)) = told.split_once("expected struct ") else { return told.to_owned() };
    let rest = name.trim_start_matches(char::is_alphanumeric);
    format!("{before}expected a mapping{rest}")
}

/// The same; a text without content is a default value.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_or_default<T: DeserializeOwned + Default>(
    file: &str,
    text: &str,
) -> Result<T, FileError> {
    if is_blank(text) { Ok(T::default()) } else { parse(file, text) }
}

/// Turns serde's list of every valid key into the nearest one.
fn near_key(told: &str) -> String {
    let Some((_, rest)) = told.split_once("unknown field `") else { return told.to_owned() };
    let mut quoted = rest.split('`').step_by(2);
    let wrong = quoted.next().unwrap_or_default();
    let valid: Vec<&str> = quoted.filter(|name| !name.is_empty()).collect();
    match nearest(wrong, valid.iter().copied()) {
        Some(near) => format!("unknown key `{wrong}`; did you mean `{near}`?"),
        None => format!("unknown key `{wrong}`; the keys here are {}", valid.join(", ")),
    }
}

/// A time: `10s`, `500ms`, `2m`, or a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span(pub Duration);

/// A size: `512MiB`, `8GiB`, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bytes(pub u64);

/// Any scalar, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scalar(pub String);

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    let value = number.parse::<f64>().ok()? * factor;
    (value > 0.0 && value < 1e18).then_some(value)
}

fn span(text: &str) -> Option<Span> {
    let seconds =
        with_unit(text, &[("", 1.0), ("s", 1.0), ("ms", 1e-3), ("m", 60.0), ("h", 3600.0)])?;
    Duration::try_from_secs_f64(seconds).ok().map(Span)
}

fn bytes(text: &str) -> Option<Bytes> {
    let units = [("", 1.0), ("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0)];
    with_unit(text, &units).map(|n| Bytes(n as u64))
}

/// A mapping in which no key may come twice.
#[derive(Debug)]
pub struct Unique<T>(pub BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique<T>, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("`{key}` is listed twice")));
            }
            map.insert(key, access.next_value()?);
        }
        Ok(Unique(map))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar")
    }
    fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
        Ok(Scalar(v.to_owned()))
    }
    fn visit_bool<E>(self, v: bool) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ScalarVisitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Scalar::deserialize(d)?.0;
        span(&text)
            .ok_or_else(|| de::Error::custom(format!("`{text}` is no time; one looks like `10s`")))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Scalar::deserialize(d)?.0;
        bytes(&text)
            .ok_or_else(|| de::Error::custom(format!("`{text}` is no size; one looks like `8GiB`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_lines() {
        let text = "groups:\n  smoke: [a,\n    b]\ntests:\n  # a::b\n  a::b::c: {}\n  a::b: {x: 1}\n\
                    known:\n- test: a::b\n  reason: x\n- reason: y\n  test: >\n    z\n";
        let lines = Lines::of(text);
        use Step::{Key, Nth};
        for (place, line) in [
            (&[Key("groups"), Key("smoke"), Nth(1)][..], Some(3)),
            (&[Key("tests"), Key("a::b")], Some(7)),
            (&[Key("tests"), Key("a::b"), Key("x")], Some(7)),
            (&[Key("known"), Nth(0), Key("test")], Some(9)),
            (&[Key("known"), Nth(1)], Some(11)),
            (&[Key("known"), Nth(1), Key("test")], Some(12)),
            (&[Key("known"), Nth(2)], None),
            (&[Key("none")], None),
            (&[Key("tests"), Nth(0)], None),
        ] {
            assert_eq!(lines.find(place), line, "{place:?}");
        }
        assert_eq!(Lines::of("[").find(&[]), None);
    }

    #[test]
    fn units_are_understood() {
        assert_eq!(span("1.5s"), Some(Span(Duration::from_millis(1500))));
        assert_eq!(span("2m"), Some(Span(Duration::from_secs(120))));
        assert_eq!(bytes("8GiB"), Some(Bytes(8 << 30)));
        for wrong in ["", "s", "10 parsecs", "-1s", "0"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }
}
