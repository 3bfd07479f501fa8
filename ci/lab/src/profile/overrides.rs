//! A profile with a few things changed on the command line: `amd64-svm,cpu=EPYC-Rome,smp=2`.

use crate::error::{LabError, Result};

/// The keys, for messages.
const KEYS: &str = "cpu=MODEL[,FEATURE…], smp=N, memory=MIB, accel=ACCELERATOR, cmdline=WORD, MODULE.PARAMETER=VALUE";

/// One thing that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// The CPU model takes the place of the profile's, whose features stay; more of them follow.
    Cpu {
        /// The model.
        model: String,
        /// Features, each with the comma before it.
        features: String,
    },
    /// Number of processors.
    Smp(u32),
    /// Memory.
    MemoryMib(u32),
    /// QEMU's accelerator and its properties.
    Accel(String),
    /// One more word of the kernel's command line.
    Cmdline(String),
    /// A parameter of a KVM module.
    Parameter {
        /// The module's name, with underscores.
        module: String,
        /// The parameter's name.
        name: String,
        /// Its value.
        value: String,
    },
}

/// The profile's own name or path, and what follows it.
#[must_use]
pub fn split(name: &str) -> (&str, Option<&str>) {
    let path_end = name.find(".yaml").unwrap_or(0);
    match name[path_end..].find(',') {
        Some(comma) => (&name[..path_end + comma], Some(&name[path_end + comma + 1..])),
        None => (name, None),
    }
}

/// Reads what follows a profile's name. A part that has none of our keys continues the one before it,
/// because CPU models have commas of their own.
///
/// # Errors
/// The first key is unknown, or a number is none.
pub fn parse(text: &str) -> Result<Vec<Override>> {
    let mut values: Vec<(&str, String)> = Vec::new();
    for part in text.split(',') {
        match part.split_once('=').filter(|(key, _)| is_key(key)) {
            Some((key, value)) => values.push((key, value.to_owned())),
            None => match values.last_mut() {
                Some((_, value)) => *value += &format!(",{part}"),
                None => return Err(wrong(part)),
            },
        }
    }
    values.into_iter().map(|(key, value)| read(key, value)).collect()
}

fn is_key(key: &str) -> bool {
    matches!(key, "cpu" | "smp" | "memory" | "accel" | "cmdline") || module_parameter(key).is_some()
}

/// `kvm_amd.npt`; no CPU feature has a dot and such a beginning.
fn module_parameter(key: &str) -> Option<(String, &str)> {
    let (module, name) = key.split_once('.')?;
    let module = module.replace('-', "_");
    (module == "kvm" || module.starts_with("kvm_")).then_some((module, name))
}

fn read(key: &str, value: String) -> Result<Override> {
    let number = || value.parse().map_err(|_| wrong(&format!("{key}={value}")));
    Ok(match key {
        "cpu" => {
            let (model, features) = value.split_at(value.find(',').unwrap_or(value.len()));
            Override::Cpu { model: model.to_owned(), features: features.to_owned() }
        }
        "smp" => Override::Smp(number()?),
        "memory" => Override::MemoryMib(number()?),
        "accel" => Override::Accel(value),
        "cmdline" => Override::Cmdline(value),
        _ => match module_parameter(key) {
            Some((module, name)) => Override::Parameter { module, name: name.to_owned(), value },
            None => return Err(wrong(key)),
        },
    })
}

fn wrong(part: &str) -> LabError {
    LabError::Other(format!("--host: {part} is none of {KEYS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_commas() {
        assert_eq!(split("a"), ("a", None));
        assert_eq!(split("a,smp=2,memory=256"), ("a", Some("smp=2,memory=256")));
        assert_eq!(split("/b,c/a.yaml,smp=2"), ("/b,c/a.yaml", Some("smp=2")));
        assert_eq!(split("/b,c/a.yaml"), ("/b,c/a.yaml", None));
    }

    #[test]
    fn a_cpu_model_keeps_its_commas() -> Result<()> {
        let overrides = parse("cpu=max,pauth-impdef=on,lpa2=off,smp=2")?;
        let cpu =
            Override::Cpu { model: "max".into(), features: ",pauth-impdef=on,lpa2=off".into() };
        assert_eq!(overrides, [cpu, Override::Smp(2)]);
        Ok(())
    }

    #[test]
    fn module_parameters_have_a_dot() -> Result<()> {
        let overrides = parse("kvm-amd.npt=0,accel=tcg,thread=single")?;
        let parameter =
            Override::Parameter { module: "kvm_amd".into(), name: "npt".into(), value: "0".into() };
        assert_eq!(overrides, [parameter, Override::Accel("tcg,thread=single".into())]);
        Ok(())
    }

    #[test]
    fn a_wrong_part_is_named_with_the_keys() {
        for text in ["cpus=EPYC", "smp=two", "memory=", ""] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("memory=MIB"), "{error}");
        }
    }
}
