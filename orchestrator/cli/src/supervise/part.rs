//! The parts of a cluster of one, in the order in which they start.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::SuperviseError;
use super::process::{self, Identity};
use crate::layout::{Layout, Settings};

/// One part: a sub-command of this binary.
pub(crate) struct Part {
    /// Its sub-command, process file and log.
    pub(crate) name: &'static str,
}

/// Server first: the others reach the cluster only through it.
pub(crate) const PARTS: &[Part] = &[Part { name: "server" }, Part { name: "agent" }, Part { name: "dns" }];

impl Part {
    /// The running process of this part: one that is there already, or a new one.
    pub(crate) fn ensure(&self, layout: &Layout, settings: &Settings) -> Result<Identity, SuperviseError> {
        let file = layout.process_file(self.name);
        if let Some(there) = process::read(&file).filter(Identity::is_alive) {
            return Ok(there);
        }
        let start = |source| SuperviseError::Start { part: self.name, source };
        let log = OpenOptions::new().create(true).append(true).open(layout.log(self.name)).map_err(start)?;
        let child = Command::new("/proc/self/exe")
            .arg0("catamaran")
            .arg(self.name)
            .args(["--data-dir".as_ref(), layout.data.as_os_str()])
            .args(self.arguments(settings))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(start)?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let pid = i32::try_from(child.id()).expect("pids are positive and below 2^22");
        process::write(&file, pid)
            .map_err(|source| SuperviseError::ProcessFile { path: file.display().to_string(), source })?;
        Identity::of(pid).ok_or_else(|| start(std::io::Error::other("it ended at once; see its log")))
    }

    /// Everything else is in the settings file; what `ps` should show is repeated here.
    fn arguments(&self, settings: &Settings) -> Vec<String> {
        match self.name {
            "server" => vec!["--api-port".to_owned(), settings.api_port.to_string()],
            "agent" => vec!["--node-name".to_owned(), settings.node_name.clone()],
            _ => Vec::new(),
        }
    }
}
