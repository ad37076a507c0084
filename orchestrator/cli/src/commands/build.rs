//! `catamaran build`: a project's program, by its language's own tools.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::project::Project;
use crate::project::build::{Tools, build};

#[derive(Args)]
pub(crate) struct Build {
    /// Folder of the project
    #[arg(value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

impl Build {
    pub(crate) fn run(&self) -> Outcome {
        let project = Project::open(&self.project)?;
        let artifact = build(&project, &Tools::here())?;
        let size = std::fs::metadata(&artifact).map_or(0, |metadata| metadata.len());
        println!("{} ({} KB)", artifact.display(), size.div_ceil(1000));
        Ok(())
    }
}
