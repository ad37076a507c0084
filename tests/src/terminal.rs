//! A terminal for a program under test, made by `script` of util-linux: keys are typed into it, and what it shows is
//! read.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::wait::until;

const LIMIT: Duration = Duration::from_secs(60);

/// A program that runs in a terminal.
pub struct Terminal {
    script: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts the command, with its environment, in a terminal.
    ///
    /// # Panics
    /// When there is no `script`.
    #[must_use]
    pub fn run(command: &Command) -> Self {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut script = Command::new("script");
        // The shell in between becomes the command.
        script.args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = script.spawn().expect("`script` of util-linux starts");
        let keys = script.stdin.take().expect("piped");
        let mut screen = script.stdout.take().expect("piped");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
            }
        });
        Terminal { script, keys, shown }
    }

    /// What it has shown so far.
    #[must_use]
    pub fn screen(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until the program takes keys as they are (kubectl does, once it is connected to a terminal elsewhere).
    #[track_caller]
    pub fn until_raw(&self) {
        until("the terminal is raw", LIMIT, || {
            let pid = self.script.id();
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let child = children.unwrap_or_default().trim().to_owned();
            let modes = Command::new("stty").args(["-a", "-F", &format!("/proc/{child}/fd/0")]).output();
            let modes = modes.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let modes = modes.map_err(|e| e.to_string())?;
            if modes.contains("-icanon") { Ok(()) } else { Err(format!("{modes}\n{}", self.screen())) }
        });
    }

    /// Waits until it has shown the text.
    #[track_caller]
    pub fn until_shown(&self, text: &str) {
        until(&format!("{text:?} is shown"), LIMIT, || {
            let screen = self.screen();
            if screen.contains(text) { Ok(()) } else { Err(screen) }
        });
    }

    /// Types.
    ///
    /// # Panics
    /// When the program is gone.
    #[track_caller]
    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the program still runs");
    }

    /// Waits for the end; the exit code and all that was shown.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        let code = until("the program ends", LIMIT, || match self.script.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            Ok(None) => Err(self.screen()),
            Err(e) => Err(e.to_string()),
        });
        (code, self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
