//! The plan: one `key value` line per fact, so that the init needs no parser library.

use std::fmt::Write as _;

/// One kernel module to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Path inside the guest; empty where the kernel has no such module.
    pub path: String,
    /// Module name as the kernel prints it.
    pub name: String,
    /// `a=b c=d`.
    pub params: String,
    /// Whether the host is useless when the module does not load.
    pub needed: bool,
}

/// Everything the init has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Modules in loading order.
    pub modules: Vec<Module>,
    /// Program and its arguments.
    pub argv: Vec<String>,
    /// Environment of the program.
    pub env: Vec<(String, String)>,
    /// Serial device for results where there is no virtio port (`/dev/ttyS1`).
    pub result_device: Option<String>,
    /// Run without `/dev/kvm` too.
    pub kvm_optional: bool,
    /// Run the program on the console, for a person.
    pub interactive: bool,
    /// Wait for the lab's [`Order`](crate::Order) after a checkpoint was taken.
    pub park: bool,
    /// Wait until this clock source is in use, or a few seconds have passed.
    pub clocksource: Option<String>,
}

/// A plan that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct PlanError(String);

impl PlanError {
    pub(crate) fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot be read: {}", self.0)
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// The text form.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, fields: &[&str]| {
            let fields: Vec<_> = fields.iter().map(|field| escape(field)).collect();
            let _ = writeln!(text, "{key}\t{}", fields.join("\t"));
        };
        for module in &self.modules {
            let needed = if module.needed { "needed" } else { "optional" };
            line("module", &[&module.name, &module.path, &module.params, needed]);
        }
        for arg in &self.argv {
            line("arg", &[arg]);
        }
        for (name, value) in &self.env {
            line("env", &[name, value]);
        }
        if let Some(device) = &self.result_device {
            line("result_device", &[device]);
        }
        if let Some(source) = &self.clocksource {
            line("clocksource", &[source]);
        }
        if self.kvm_optional {
            line("kvm_optional", &[]);
        }
        if self.interactive {
            line("interactive", &[]);
        }
        if self.park {
            line("park", &[]);
        }
        text
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// An unknown key or a line with too few fields.
    pub fn decode(text: &str) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let bad = || PlanError(line.to_owned());
            let (key, rest) = line.split_once('\t').ok_or_else(bad)?;
            let fields: Vec<String> = rest.split('\t').map(unescape).collect();
            match (key, fields.as_slice()) {
                ("module", [name, path, params, needed]) => plan.modules.push(Module {
                    name: name.clone(),
                    path: path.clone(),
                    params: params.clone(),
                    needed: needed == "needed",
                }),
                ("arg", [arg]) => plan.argv.push(arg.clone()),
                ("env", [name, value]) => plan.env.push((name.clone(), value.clone())),
                ("result_device", [device]) => plan.result_device = Some(device.clone()),
                ("clocksource", [source]) => plan.clocksource = Some(source.clone()),
                ("kvm_optional", _) => plan.kvm_optional = true,
                ("interactive", _) => plan.interactive = true,
                ("park", _) => plan.park = true,
                _ => return Err(bad()),
            }
        }
        Ok(plan)
    }
}

pub(crate) fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n")
}

pub(crate) fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('t') => text.push('\t'),
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            (other, false) => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip_with_odd_bytes() {
        let plan = Plan {
            modules: vec![Module {
                path: "/m/kvm.ko".into(),
                name: "kvm".into(),
                params: "a=1 b=2".into(),
                needed: true,
            }],
            argv: vec!["/store/runner".into(), "a\tb\\n\nc".into(), String::new()],
            env: vec![("K".into(), "v=w".into())],
            result_device: Some("/dev/ttyS1".into()),
            kvm_optional: true,
            interactive: true,
            park: true,
            clocksource: Some("tsc".into()),
        };
        assert_eq!(Plan::decode(&plan.encode()), Ok(plan));
    }

    #[test]
    fn names_the_bad_line() {
        assert_eq!(Plan::decode("arg\tx\nwhat\tx\n"), Err(PlanError("what\tx".into())));
    }
}
