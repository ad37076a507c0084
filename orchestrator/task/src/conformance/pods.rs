//! Cases of `catamaran.task.v1.Pods`.

use std::path::PathBuf;
use std::time::Duration;

use super::{Bench, Outcome, Program, Report, ensure, soon};
use crate::client::TaskClient;
use crate::pods::{ExecSpec, TaskError};
use crate::spec::{ContainerId, ContainerSpec};
use crate::status::{ContainerStatus, Exit, ExitReason, State};

const KILL: i32 = 9;
const TERM: i32 = 15;

pub(super) async fn run(bench: &dyn Bench, client: TaskClient) -> Report {
    let suite = Suite { bench, client };
    let mut report = Report::default();
    report.case("from create to delete", suite.lifecycle()).await;
    report.case("exit codes", suite.exit_codes()).await;
    report.case("what is said is logged", suite.logs()).await;
    report.case("kill", suite.kill()).await;
    report.case("stop", suite.stop()).await;
    report.case("names that are not known", suite.unknown()).await;
    report.case("calls out of order", suite.out_of_order()).await;
    report.case("a container never started", suite.never_started()).await;
    report.case("many at once", suite.batch()).await;
    report.case("waiting holds nobody up", suite.waiting()).await;
    report.case("the list of exits", suite.exits()).await;
    report.case("figures", suite.stats()).await;
    report.case("a program that is not there", suite.missing()).await;
    report.case("another client sees the same", suite.other_client()).await;
    report.case("exec", suite.exec()).await;
    report.case("no shutdown while containers are there", suite.shutdown()).await;
    report
}

struct Suite<'a> {
    bench: &'a dyn Bench,
    client: TaskClient,
}

fn id(name: &str) -> ContainerId {
    ContainerId(name.to_owned())
}

fn text(error: TaskError) -> String {
    error.to_string()
}

impl Suite<'_> {
    fn log(&self, name: &str) -> PathBuf {
        self.bench.scratch().join(format!("{name}.log"))
    }

    fn spec(&self, name: &str, program: &Program) -> ContainerSpec {
        self.bench.container(name, program, &self.log(name))
    }

    async fn create(&self, name: &str, program: &Program) -> Result<ContainerStatus, TaskError> {
        let made = self.client.create(vec![self.spec(name, program)]).await.pop();
        made.unwrap_or_else(|| Err(TaskError::Failed("no result for the one container".into())))
    }

    async fn run(&self, name: &str, program: &Program) -> Result<ContainerId, String> {
        self.create(name, program).await.map_err(text)?;
        self.client.start(&id(name)).await.map_err(text)?;
        Ok(id(name))
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit, String> {
        soon("wait", self.client.wait(id)).await?.map_err(text)
    }

    async fn state(&self, id: &ContainerId) -> Result<Option<ContainerStatus>, String> {
        Ok(self.client.status(std::slice::from_ref(id)).await.map_err(text)?.pop())
    }

    async fn remove(&self, id: &ContainerId) -> Outcome {
        self.client.kill(id, KILL).await.map_err(text)?;
        self.wait(id).await?;
        self.client.delete(id).await.map_err(text)
    }

    async fn lifecycle(&self) -> Outcome {
        let created = self.create("life", &Program::Run).await.map_err(text)?;
        ensure!(created.state == State::Created, "after create it is {:?}", created.state);
        ensure!(created.id == id("life"), "create gave the id {:?}", created.id);
        ensure!(created.started_at_ms.is_none() && created.exit.is_none(), "created, but {created:?}");
        let started = self.client.start(&id("life")).await.map_err(text)?;
        ensure!(started.state == State::Running, "after start it is {:?}", started.state);
        ensure!(started.started_at_ms.is_some(), "running without a start time");
        ensure!(started.pid == created.pid, "the pid changed by start");
        self.client.kill(&id("life"), KILL).await.map_err(text)?;
        let exit = self.wait(&id("life")).await?;
        let state = self.state(&id("life")).await?.ok_or("forgotten before delete")?;
        ensure!(state.state == State::Exited, "after the exit it is {:?}", state.state);
        ensure!(state.exit.as_ref() == Some(&exit), "wait said {exit:?}, status {:?}", state.exit);
        ensure!(exit.at_ms >= started.started_at_ms.unwrap_or(0), "it ended before it started: {exit:?}");
        self.client.delete(&id("life")).await.map_err(text)?;
        ensure!(self.state(&id("life")).await?.is_none(), "still known after delete");
        self.run("life", &Program::Exit(0)).await.map_err(|e| format!("the name again: {e}"))?;
        self.wait(&id("life")).await?;
        self.client.delete(&id("life")).await.map_err(text)
    }

    async fn exit_codes(&self) -> Outcome {
        for code in [0u8, 1, 7, 125, 255] {
            let id = self.run(&format!("exit-{code}"), &Program::Exit(code)).await?;
            let exit = self.wait(&id).await?;
            ensure!(exit.code == i32::from(code), "ended with {code}, reported {exit:?}");
            ensure!(exit.reason == ExitReason::Exited, "ended by itself, reported {exit:?}");
            self.client.delete(&id).await.map_err(text)?;
        }
        Ok(())
    }

    async fn logs(&self) -> Outcome {
        let program = Program::Say("hello\nworld\n".into(), "oh no\nunfinished".into());
        let id = self.run("say", &program).await?;
        self.wait(&id).await?;
        // The exit is told only after the last word is in the file.
        let log = std::fs::read_to_string(self.log("say")).map_err(|e| format!("the log: {e}"))?;
        let of = |stream: &str| -> Vec<String> {
            let fields = log.lines().map(|line| line.splitn(4, ' ').collect::<Vec<_>>());
            let own = fields.filter(|f| f.len() == 4 && f.get(1) == Some(&stream));
            own.map(|f| f.get(2..).unwrap_or_default().join(" ")).collect()
        };
        ensure!(of("stdout") == ["F hello", "F world"], "stdout in the log: {log:?}");
        ensure!(of("stderr") == ["F oh no", "F unfinished"], "stderr in the log: {log:?}");
        ensure!(log.lines().all(|l| l.len() > 30 && l.get(19..20) == Some(".")), "times in the log: {log:?}");
        self.client.delete(&id).await.map_err(text)
    }

    async fn kill(&self) -> Outcome {
        let id = self.run("kill", &Program::Run).await?;
        self.client.kill(&id, KILL).await.map_err(text)?;
        let exit = self.wait(&id).await?;
        ensure!(exit.code == 137, "killed, reported {exit:?}");
        ensure!(exit.reason == ExitReason::Exited, "killed on request, reported {exit:?}");
        self.client.kill(&id, KILL).await.map_err(|e| format!("kill after the exit: {e}"))?;
        self.client.delete(&id).await.map_err(text)
    }

    async fn stop(&self) -> Outcome {
        let id = self.run("stop", &Program::Run).await?;
        // A program needs a moment until it listens for the signal.
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.client.kill(&id, TERM).await.map_err(text)?;
        self.wait(&id).await?;
        self.client.delete(&id).await.map_err(text)
    }

    async fn unknown(&self) -> Outcome {
        let nobody = id("nobody");
        let not_found = |what: &str, error: Option<TaskError>| match error {
            Some(TaskError::NotFound(_)) => Ok(()),
            other => Err(format!("{what} of an unknown container: {other:?}")),
        };
        not_found("start", self.client.start(&nobody).await.err())?;
        not_found("kill", self.client.kill(&nobody, KILL).await.err())?;
        not_found("delete", self.client.delete(&nobody).await.err())?;
        not_found("wait", self.client.wait(&nobody).await.err())?;
        ensure!(self.state(&nobody).await?.is_none(), "status knows an unknown container");
        let bad = self.create("../bad", &Program::Run).await.err();
        ensure!(matches!(bad, Some(TaskError::InvalidArgument(_))), "a name that is a path: {bad:?}");
        Ok(())
    }

    async fn out_of_order(&self) -> Outcome {
        let precondition = |what: &str, error: Option<TaskError>| match error {
            Some(TaskError::FailedPrecondition(_)) => Ok(()),
            other => Err(format!("{what}: {other:?}")),
        };
        let id = self.run("order", &Program::Run).await?;
        let again = self.create("order", &Program::Run).await.err();
        ensure!(matches!(again, Some(TaskError::AlreadyExists(_))), "a second create: {again:?}");
        precondition("a second start", self.client.start(&id).await.err())?;
        precondition("delete while it runs", self.client.delete(&id).await.err())?;
        self.client.kill(&id, KILL).await.map_err(text)?;
        self.wait(&id).await?;
        precondition("start after the exit", self.client.start(&id).await.err())?;
        self.client.delete(&id).await.map_err(text)
    }

    async fn never_started(&self) -> Outcome {
        self.create("never", &Program::Run).await.map_err(text)?;
        self.client.delete(&id("never")).await.map_err(|e| format!("delete of a created one: {e}"))?;
        ensure!(self.state(&id("never")).await?.is_none(), "still known after delete");
        self.create("never", &Program::Run).await.map_err(text)?;
        self.client.kill(&id("never"), TERM).await.map_err(|e| format!("kill of a created one: {e}"))?;
        self.wait(&id("never")).await?;
        self.client.delete(&id("never")).await.map_err(text)
    }

    async fn batch(&self) -> Outcome {
        self.create("many-3", &Program::Exit(0)).await.map_err(text)?;
        let names: Vec<String> = (0..12).map(|n| format!("many-{n}")).collect();
        let specs = names.iter().map(|name| self.spec(name, &Program::Exit(0))).collect();
        let results = self.client.create(specs).await;
        ensure!(results.len() == names.len(), "{} results for {} containers", results.len(), names.len());
        for (name, result) in names.iter().zip(&results) {
            match (name.as_str(), result) {
                ("many-3", Err(TaskError::AlreadyExists(_))) => {}
                (_, Ok(status)) if status.id == id(name) && name != "many-3" => {}
                other => return Err(format!("in the batch: {other:?}")),
            }
        }
        let everything = self.client.status(&[]).await.map_err(text)?;
        let all = names.iter().all(|name| everything.iter().any(|status| status.id == id(name)));
        ensure!(all, "status of everything lacks some of the batch");
        for name in &names {
            self.client.start(&id(name)).await.map_err(text)?;
        }
        for name in &names {
            self.wait(&id(name)).await?;
            self.client.delete(&id(name)).await.map_err(text)?;
        }
        Ok(())
    }

    async fn waiting(&self) -> Outcome {
        self.create("wait", &Program::Run).await.map_err(text)?;
        let waiters: Vec<_> = (0..20)
            .map(|_| {
                let client = self.client.clone();
                tokio::spawn(async move { client.wait(&id("wait")).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        soon("start beside twenty waits", self.client.start(&id("wait"))).await?.map_err(text)?;
        soon("status beside twenty waits", self.state(&id("wait"))).await??;
        ensure!(waiters.iter().all(|waiter| !waiter.is_finished()), "a wait ended before the container");
        self.client.kill(&id("wait"), KILL).await.map_err(text)?;
        for waiter in waiters {
            let exit = soon("one of the waits", waiter).await?.map_err(|e| e.to_string())?.map_err(text)?;
            ensure!(exit.code == 137, "one of the waits said {exit:?}");
        }
        self.client.delete(&id("wait")).await.map_err(text)
    }

    async fn exits(&self) -> Outcome {
        let first = self.run("listed-1", &Program::Exit(3)).await?;
        self.wait(&first).await?;
        let listed = soon("exits", self.client.exits(0)).await?.map_err(text)?;
        let own = listed.iter().find(|event| event.id == first).ok_or("the exit is not on the list")?;
        ensure!(own.exit.code == 3, "on the list: {own:?}");
        ensure!(listed.is_sorted_by_key(|event| event.sequence), "the list is not in order");
        let newest = listed.last().map_or(0, |event| event.sequence);
        let client = self.client.clone();
        let poll = tokio::spawn(async move { client.exits(newest).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        ensure!(!poll.is_finished(), "the list did not wait for something new");
        let second = self.run("listed-2", &Program::Exit(4)).await?;
        let fresh = soon("the waiting list", poll).await?.map_err(|e| e.to_string())?.map_err(text)?;
        ensure!(fresh.iter().all(|event| event.sequence > newest), "old exits again: {fresh:?}");
        ensure!(fresh.iter().any(|event| event.id == second), "not the new exit: {fresh:?}");
        for id in [first, second] {
            self.wait(&id).await?;
            self.client.delete(&id).await.map_err(text)?;
        }
        Ok(())
    }

    async fn stats(&self) -> Outcome {
        let id = self.run("figures", &Program::Run).await?;
        let one = self.client.stats(std::slice::from_ref(&id)).await.map_err(text)?;
        ensure!(one.len() == 1 && one.iter().all(|s| s.id == id.0), "figures of one: {one:?}");
        ensure!(one.iter().all(|s| s.working_set_bytes > 0 && s.pids > 0), "it runs on nothing: {one:?}");
        let all = self.client.stats(&[]).await.map_err(text)?;
        ensure!(all.iter().any(|s| s.id == id.0), "figures of all lack one");
        let none = self.client.stats(&[self::id("nobody")]).await.map_err(text)?;
        ensure!(none.is_empty(), "figures of an unknown container: {none:?}");
        self.remove(&id).await
    }

    async fn missing(&self) -> Outcome {
        let refused = match self.create("missing", &Program::Missing).await {
            Err(error) => error,
            Ok(_) => {
                let error = self.client.start(&id("missing")).await.err().ok_or("it started")?;
                let exit = self.wait(&id("missing")).await?;
                ensure!(exit.reason == ExitReason::StartFailed, "its end: {exit:?}");
                ensure!(exit.code != 0 && exit.message.is_some(), "its end: {exit:?}");
                self.client.delete(&id("missing")).await.map_err(text)?;
                error
            }
        };
        ensure!(!text(refused).is_empty(), "no reason given");
        ensure!(self.state(&id("missing")).await?.is_none(), "still known");
        Ok(())
    }

    async fn other_client(&self) -> Outcome {
        let id = self.run("shared", &Program::Run).await?;
        let other = TaskClient::connect(&self.bench.socket()).await.map_err(text)?;
        let seen = other.status(std::slice::from_ref(&id)).await.map_err(text)?;
        ensure!(seen.iter().any(|s| s.state == State::Running), "another client sees {seen:?}");
        drop(other);
        self.remove(&id).await
    }

    async fn exec(&self) -> Outcome {
        let id = self.run("exec", &Program::Run).await?;
        let outcome = match self.bench.echo() {
            Some(process) => self.exec_works(&id, process).await,
            None => self.exec_is_refused(&id).await,
        };
        outcome.and(self.remove(&id).await)
    }

    async fn exec_is_refused(&self, id: &ContainerId) -> Outcome {
        let exec = ExecSpec {
            exec_id: "e".into(),
            process: oci_spec::runtime::Process::default(),
            stdin: String::new(),
            stdout: String::new(),
            stderr: String::new(),
        };
        match self.client.exec(id, exec).await {
            Err(TaskError::Unimplemented(_)) => Ok(()),
            other => Err(format!("exec where there is none: {other:?}")),
        }
    }

    async fn exec_works(&self, id: &ContainerId, process: oci_spec::runtime::Process) -> Outcome {
        let pipe = |name: &str| -> Result<String, String> {
            let path = self.bench.scratch().join(name);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
                .map_err(|e| format!("{}: {e}", path.display()))?;
            Ok(path.to_string_lossy().into_owned())
        };
        let exec = ExecSpec {
            exec_id: "echo".into(),
            process,
            stdin: pipe("exec-in")?,
            stdout: pipe("exec-out")?,
            stderr: String::new(),
        };
        let (stdin, stdout) = (exec.stdin.clone(), exec.stdout.clone());
        let said = tokio::task::spawn_blocking(move || std::fs::read_to_string(stdout));
        let told = tokio::task::spawn_blocking(move || std::fs::write(stdin, "to and fro\n"));
        let pid = self.client.exec(id, exec.clone()).await.map_err(text)?;
        ensure!(pid > 0, "a process without a pid");
        let exit = soon("wait_exec", self.client.wait_exec(id, "echo")).await?.map_err(text)?;
        ensure!(exit.code == 7, "the process reported {exit:?}");
        soon("its stdin", told).await?.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let said = soon("its stdout", said).await?.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        ensure!(said == "to and fro\n", "it said {said:?}");
        let again = self.client.wait_exec(id, "echo").await.err();
        ensure!(matches!(again, Some(TaskError::NotFound(_))), "waited for twice: {again:?}");
        let state = self.state(id).await?.ok_or("the container is gone")?;
        ensure!(state.state == State::Running, "after exec the container is {:?}", state.state);

        let held = ExecSpec { exec_id: "held".into(), stdout: String::new(), ..exec };
        let keep_open = std::fs::OpenOptions::new().read(true).write(true).open(&held.stdin);
        let keep_open = keep_open.map_err(|e| e.to_string())?;
        self.client.exec(id, held).await.map_err(text)?;
        self.client.kill_exec(id, "held", KILL).await.map_err(text)?;
        let exit = soon("wait_exec", self.client.wait_exec(id, "held")).await?.map_err(text)?;
        ensure!(exit.code == 137, "killed, the process reported {exit:?}");
        drop(keep_open);
        Ok(())
    }

    async fn shutdown(&self) -> Outcome {
        let id = self.run("there", &Program::Run).await?;
        let refused = self.client.shutdown().await.err();
        ensure!(matches!(refused, Some(TaskError::FailedPrecondition(_))), "shutdown: {refused:?}");
        self.remove(&id).await
    }
}
