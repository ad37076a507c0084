//! `catamaran status`: what runs.

use clap::Args;

use super::{DataDir, Outcome};
use crate::cluster::Cluster;
use crate::view;

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    data: DataDir,
    /// Show it again every second until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

impl Status {
    pub(crate) async fn run(self) -> Outcome {
        let layout = self.data.layout();
        let cluster = Cluster::open(&layout.kubeconfig()).await;
        match cluster {
            Ok(cluster) if self.watch => view::live(&layout, &cluster).await,
            Ok(cluster) => print!("{}", view::text(&layout, Some(&cluster)).await),
            Err(_) => print!("{}", view::text(&layout, None).await),
        }
        Ok(())
    }
}
