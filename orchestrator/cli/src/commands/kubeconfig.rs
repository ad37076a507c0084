//! `catamaran kubeconfig`: where the administrator's credentials are.

use clap::Args;

use super::{DataDir, Outcome};

#[derive(Args)]
pub(crate) struct Kubeconfig {
    #[command(flatten)]
    data: DataDir,
    /// Print the file's text instead of its path
    #[arg(long)]
    raw: bool,
}

impl Kubeconfig {
    pub(crate) fn run(&self) -> Outcome {
        let path = self.data.layout().kubeconfig();
        let text = std::fs::read_to_string(&path).map_err(|e| {
            format!("{} cannot be read ({e}); start a cluster with `catamaran up`", path.display())
        })?;
        if self.raw {
            print!("{text}");
        } else {
            println!("{}", path.display());
        }
        Ok(())
    }
}
