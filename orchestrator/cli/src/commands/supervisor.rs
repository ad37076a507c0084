//! `catamaran supervisor`: started by `up`, looks after the other parts.

use clap::Args;

use super::{DataDir, Outcome};
use crate::layout::Settings;
use crate::supervise;

#[derive(Args)]
pub(crate) struct Supervisor {
    #[command(flatten)]
    data: DataDir,
}

impl Supervisor {
    pub(crate) async fn run(self) -> Outcome {
        // Already a leader of its session when it was started that way.
        let _ = rustix::process::setsid();
        let layout = self.data.layout();
        let settings = Settings::load(&layout).ok_or_else(|| {
            format!("{} is missing: start with `catamaran up`", layout.settings().display())
        })?;
        supervise::run(layout, settings).await?;
        Ok(())
    }
}
