//! The kernel matrix: `ci/kernels.yaml`.

use std::path::Path;

use serde::Deserialize;

use crate::error::{At as _, LabError, Result};

/// One cell of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Host profile.
    pub host: String,
    /// Kernel.
    pub kernel: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    hosts: Vec<String>,
    kernels: Vec<String>,
}

/// All cells, in the file's order, each once.
///
/// # Errors
/// The file is missing or wrong.
pub fn cells() -> Result<Vec<Cell>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels.yaml");
    parse(&std::fs::read_to_string(&path).at(&path)?)
}

/// Every `count`-th cell from the `index`-th (from 1), so that shards are alike.
#[must_use]
pub fn shard(cells: Vec<Cell>, index: usize, count: usize) -> Vec<Cell> {
    cells.into_iter().skip(index.saturating_sub(1)).step_by(count.max(1)).collect()
}

fn parse(text: &str) -> Result<Vec<Cell>> {
    let blocks: Vec<Block> = serde_yaml::from_str(text)
        .map_err(|error| LabError::Other(format!("kernels.yaml: {error}")))?;
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
        let cells = cells()?;
        assert!(!cells.is_empty());
        for cell in cells {
            Profile::load(&cell.host)?;
            cell.kernel.parse::<KernelSpec>()?;
        }
        Ok(())
    }

    #[test]
    fn shards_share_nothing_and_miss_nothing() -> Result<()> {
        let cells = parse("- hosts: [a, b, a]\n  kernels: [debian:x, debian:y]\n")?;
        assert_eq!(cells.len(), 4);
        let mut joined = shard(cells.clone(), 1, 3);
        joined.extend(shard(cells.clone(), 2, 3));
        joined.extend(shard(cells.clone(), 3, 3));
        assert_eq!(joined.len(), 4);
        assert!(cells.iter().all(|cell| joined.contains(cell)));
        Ok(())
    }
}
