//! The kernel matrix: `ci/kernels.yaml`.

use std::fmt;
use std::fs;
use std::path::Path;

use cli::args::Shard;
use serde::Deserialize;

use crate::error::{At as _, LabError, Result};
use crate::profile;

/// One cell of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Host profile.
    pub host: String,
    /// Kernel.
    pub kernel: String,
}

impl Cell {
    /// As part of a file's name.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}@{}", profile::file_name(&self.host), profile::file_name(&self.kernel))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.kernel)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    hosts: Vec<String>,
    kernels: Vec<String>,
}

/// All cells of a file, or of `ci/kernels.yaml`, in the file's order, each once.
///
/// # Errors
/// The file is missing or wrong.
pub fn cells(file: Option<&Path>) -> Result<Vec<Cell>> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels.yaml");
    let path = file.unwrap_or(&built_in);
    parse(path, &fs::read_to_string(path).at(path)?)
}

/// Every N-th cell from the I-th, so that shards are alike.
#[must_use]
pub fn shard(cells: Vec<Cell>, shard: Shard) -> Vec<Cell> {
    cells.into_iter().skip(shard.index - 1).step_by(shard.of).collect()
}

fn parse(path: &Path, text: &str) -> Result<Vec<Cell>> {
    let blocks: Vec<Block> = serde_yaml::from_str(text)
        .map_err(|error| LabError::Other(format!("{}: {error}", path.display())))?;
    let mut cells = Vec::new();
    for block in &blocks {
        for host in &block.hosts {
            for kernel in &block.kernels {
                let cell = Cell { host: host.clone(), kernel: kernel.clone() };
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelSpec;
    use crate::profile::Profile;

    #[test]
    fn every_cell_of_the_repository_can_be_read() -> Result<()> {
        let false_alarms = Path::new(env!("CARGO_MANIFEST_DIR")).join("../false-alarms.yaml");
        for file in [None, Some(false_alarms.as_path())] {
            let cells = cells(file)?;
            assert!(!cells.is_empty());
            for cell in cells {
                Profile::load(&cell.host)?;
                cell.kernel.parse::<KernelSpec>()?;
            }
        }
        Ok(())
    }

    #[test]
    fn shards_share_nothing_and_miss_nothing() -> Result<()> {
        let cells = parse(Path::new("m"), "- hosts: [a, b, a]\n  kernels: [debian:x, debian:y]\n")?;
        assert_eq!(cells.len(), 4);
        let parts = (1..=3).map(|index| shard(cells.clone(), Shard { index, of: 3 }));
        let joined = parts.flatten().collect::<Vec<_>>();
        assert_eq!(joined.len(), 4);
        assert!(cells.iter().all(|cell| joined.contains(cell)));
        Ok(())
    }
}
