//! `catamaran push`: an image into the built-in registry.

use std::path::PathBuf;

use clap::Args;

use super::{DataDir, Outcome};
use crate::images::{PushError, Pusher};
use crate::layout::Settings;

#[derive(Args)]
pub(crate) struct Push {
    #[command(flatten)]
    data: DataDir,
    /// An OCI layout directory to push instead of a .wasm file
    #[arg(long, value_name = "DIR")]
    oci_layout: Option<PathBuf>,
    /// FILE.wasm (not with --oci-layout), then NAME[:TAG]
    #[arg(required = true, num_args = 1..=2, value_name = "FILE NAME")]
    arguments: Vec<String>,
}

impl Push {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        crate::authorities::provide(&layout)?;
        let port = Settings::load(&layout).map_or(5000, |settings| settings.registry_port);
        let pusher = Pusher::local(port);
        let (name, digest) = match (&self.oci_layout, &self.arguments[..]) {
            (Some(directory), [name]) => (name, pusher.layout(name, directory).await?),
            (None, [file, name]) => {
                let wasm =
                    std::fs::read(file).map_err(|source| PushError::Read { path: file.clone(), source })?;
                (name, pusher.wasm(name, wasm.into()).await?)
            }
            (Some(_), _) => return Err("with --oci-layout DIR give just NAME[:TAG]".into()),
            (None, _) => return Err("give FILE.wasm and NAME[:TAG]".into()),
        };
        println!("{}@{digest}", pusher.reference(name)?);
        Ok(())
    }
}
