//! `catamaran new`: a folder with a program that can be built and run at once.

use std::path::Path;

use catamaran_api::name::dns1035_label;
use clap::Args;

use super::Outcome;
use crate::project::{Language, template};

#[derive(Args)]
pub(crate) struct New {
    /// Name of the program, of its folder, and of the objects that deploy it
    name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
}

impl New {
    pub(crate) fn run(&self) -> Outcome {
        let name = &self.name;
        // The strictest of what the name is used for: a Service.
        if let Some(reason) = dns1035_label(name).first() {
            return Err(format!("{name:?} cannot be the name of a Service: {reason}").into());
        }
        let folder = Path::new(name);
        std::fs::create_dir(folder).map_err(|error| format!("cannot make the folder {name}: {error}"))?;
        template::write(folder, name, self.lang).map_err(|error| format!("cannot write {name}: {error}"))?;
        println!("made {name}; next: catamaran run {name}");
        Ok(())
    }
}
