//! Reading YAML: the only file that knows the YAML library.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::known::KnownFailure;
use super::mutants::Mutant;
use super::policy::PolicyError;
use cli::nearest;

/// `unittests.yaml` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    #[serde(default)]
    pub defaults: RawDefaults,
    #[serde(default)]
    pub groups: Unique<Vec<String>>,
    #[serde(default)]
    pub tests: Unique<RawTest>,
    #[serde(default)]
    pub known_failures: Vec<KnownFailure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDefaults {
    pub timeout: Option<Span>,
    pub memory: Option<Bytes>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTest {
    pub timeout: Option<Span>,
    pub memory: Option<Bytes>,
    #[serde(default)]
    pub exclusive: bool,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub requires: Vec<String>,
    #[serde(default)]
    pub parameters: BTreeMap<String, Scalar>,
}

/// A policy as a build prepared it, in JSON; nothing where there is none.
pub(super) fn prepared(json: &str) -> Option<RawPolicy> {
    serde_json::from_str(json).ok()
}

/// Parses the whole file.
pub(super) fn parse(source: &str, text: &str) -> Result<RawPolicy, PolicyError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(RawPolicy::default());
    }
    serde_yaml::from_str(text).map_err(|e| {
        let line = e.location().map(|place| place.line());
        let mut told = e.to_string();
        if let Some(at) = told.rfind(" at line ") {
            told.truncate(at);
        }
        PolicyError::at(source, line, near_key(&told))
    })
}

/// Parses a file of mutants.
pub(super) fn mutants(text: &str) -> Result<Vec<Mutant>, String> {
    serde_yaml::from_str(text).map_err(|e| e.to_string())
}

/// Turns serde's list of every valid key into the nearest one.
fn near_key(told: &str) -> String {
    let Some((_, rest)) = told.split_once("unknown field `") else { return told.to_owned() };
    let mut quoted = rest.split('`').step_by(2);
    let wrong = quoted.next().unwrap_or_default();
    let valid: Vec<&str> = quoted.filter(|name| !name.is_empty()).collect();
    match nearest::nearest(wrong, valid.iter().copied()) {
        Some(near) => format!("unknown key `{wrong}`; did you mean `{near}`?"),
        None => format!("unknown key `{wrong}`; the keys here are {}", valid.join(", ")),
    }
}

/// A time: `10s`, `500ms`, `2m`, or a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span(pub Duration);

/// A size: `512MiB`, `8GiB`, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bytes(pub u64);

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
pub(super) struct Unique<T>(pub BTreeMap<String, T>);

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
    fn units_are_understood() {
        assert_eq!(span("1.5s"), Some(Span(Duration::from_millis(1500))));
        assert_eq!(span("2m"), Some(Span(Duration::from_secs(120))));
        assert_eq!(bytes("8GiB"), Some(Bytes(8 << 30)));
        for wrong in ["", "s", "10 parsecs", "-1s", "0"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }
}
