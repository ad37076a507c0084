//! Cases of containerd's Task API, called by its messages alone: also foreign shims can be asked.

use std::path::{Path, PathBuf};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::{Message, MessageField, well_known_types::any::Any};
use containerd_shim_protos::ttrpc::{self, r#async::Client};

use super::{Bench, Outcome, Program, Report, ensure, soon};

const KILL: u32 = 9;

pub(super) async fn run(
    bench: &dyn Bench,
    service: &'static str,
    bundle: &(dyn Fn(&str, &Program) -> PathBuf + Sync),
) -> Report {
    let mut report = Report::default();
    let client = match tokio::net::UnixStream::connect(bench.socket()).await {
        Ok(stream) => Client::new(stream.into()),
        Err(e) => {
            report.failures.push(("connect", e.to_string()));
            return report;
        }
    };
    let suite = Suite { bench, service, bundle, client };
    report.case("task: from create to delete", suite.lifecycle()).await;
    report.case("task: exit status", suite.exit_status()).await;
    report.case("task: codes of errors", suite.codes()).await;
    report.case("task: output pipes", suite.output()).await;
    report.case("task: exec in two steps", suite.exec()).await;
    report.case("task: pids, figures, connect", suite.figures()).await;
    report
}

struct Suite<'a> {
    bench: &'a dyn Bench,
    service: &'static str,
    bundle: &'a (dyn Fn(&str, &Program) -> PathBuf + Sync),
    client: Client,
}

impl Suite<'_> {
    async fn call<A: Message>(&self, method: &str, request: &impl Message) -> Result<A, ttrpc::Error> {
        let payload = request.write_to_bytes().map_err(|e| ttrpc::Error::Others(e.to_string()))?;
        let request = ttrpc::Request {
            service: self.service.into(),
            method: method.into(),
            payload,
            ..Default::default()
        };
        let response = self.client.request(request).await?;
        A::parse_from_bytes(&response.payload).map_err(|e| ttrpc::Error::Others(e.to_string()))
    }

    async fn good<A: Message>(&self, method: &str, request: &impl Message) -> Result<A, String> {
        soon(method, self.call(method, request)).await?.map_err(|e| format!("{method}: {e}"))
    }

    async fn create(&self, id: &str, program: &Program, stdout: &str) -> Result<u32, String> {
        let bundle = (self.bundle)(id, program);
        let request = api::CreateTaskRequest {
            id: id.into(),
            bundle: bundle.to_string_lossy().into_owned(),
            stdout: stdout.into(),
            ..Default::default()
        };
        let response: api::CreateTaskResponse = self.good("Create", &request).await?;
        Ok(response.pid)
    }

    async fn state(&self, id: &str, exec_id: &str) -> Result<api::StateResponse, String> {
        let request = api::StateRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.good("State", &request).await
    }

    async fn start(&self, id: &str, exec_id: &str) -> Result<u32, String> {
        let request = api::StartRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        let response: api::StartResponse = self.good("Start", &request).await?;
        Ok(response.pid)
    }

    async fn wait(&self, id: &str, exec_id: &str) -> Result<u32, String> {
        let request = api::WaitRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        let response: api::WaitResponse = self.good("Wait", &request).await?;
        ensure!(response.exited_at.seconds > 0, "an exit without a time");
        Ok(response.exit_status)
    }

    async fn kill(&self, id: &str) -> Outcome {
        let request = api::KillRequest { id: id.into(), signal: KILL, ..Default::default() };
        self.good::<api::Empty>("Kill", &request).await.map(drop)
    }

    async fn delete(&self, id: &str, exec_id: &str) -> Result<u32, String> {
        let request = api::DeleteRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        let response: api::DeleteResponse = self.good("Delete", &request).await?;
        Ok(response.exit_status)
    }

    async fn lifecycle(&self) -> Outcome {
        let pid = self.create("task", &Program::Run, "").await?;
        ensure!(pid > 0, "created without a pid");
        let state = self.state("task", "").await?;
        ensure!(state.status() == api::Status::CREATED, "after create: {:?}", state.status());
        ensure!(state.pid == pid, "create said pid {pid}, state {}", state.pid);
        let started = self.start("task", "").await?;
        ensure!(started == pid, "create said pid {pid}, start {started}");
        let state = self.state("task", "").await?;
        ensure!(state.status() == api::Status::RUNNING, "after start: {:?}", state.status());
        let (waited, killed) = tokio::join!(self.wait("task", ""), self.kill("task"));
        killed?;
        ensure!(waited? == 137, "killed, but another exit status");
        let state = self.state("task", "").await?;
        ensure!(state.status() == api::Status::STOPPED, "after the exit: {:?}", state.status());
        ensure!(state.exit_status == 137, "state says exit status {}", state.exit_status);
        ensure!(self.delete("task", "").await? == 137, "delete says another exit status");
        Ok(())
    }

    async fn exit_status(&self) -> Outcome {
        for code in [0u8, 42] {
            self.create("task-exit", &Program::Exit(code), "").await?;
            self.start("task-exit", "").await?;
            let status = self.wait("task-exit", "").await?;
            ensure!(status == u32::from(code), "ended with {code}, reported {status}");
            self.delete("task-exit", "").await?;
        }
        Ok(())
    }

    async fn codes(&self) -> Outcome {
        let code = |error: ttrpc::Error| match error {
            ttrpc::Error::RpcStatus(status) => Ok(status.code()),
            other => Err(other.to_string()),
        };
        let nobody = api::StateRequest { id: "nobody".into(), ..Default::default() };
        let unknown = self.call::<api::StateResponse>("State", &nobody).await.err().ok_or("known?")?;
        let got = code(unknown)?;
        ensure!(got == ttrpc::Code::NOT_FOUND, "state of an unknown task: {got:?}");
        self.create("task-twice", &Program::Run, "").await?;
        let bundle = (self.bundle)("task-twice", &Program::Run).to_string_lossy().into_owned();
        let again = api::CreateTaskRequest { id: "task-twice".into(), bundle, ..Default::default() };
        let twice = self.call::<api::CreateTaskResponse>("Create", &again).await.err().ok_or("made twice")?;
        let got = code(twice)?;
        ensure!(got == ttrpc::Code::ALREADY_EXISTS, "a second create: {got:?}");
        self.start("task-twice", "").await?;
        let running = api::DeleteRequest { id: "task-twice".into(), ..Default::default() };
        let refused = self.call::<api::DeleteResponse>("Delete", &running).await.err().ok_or("deleted")?;
        let got = code(refused)?;
        ensure!(got == ttrpc::Code::FAILED_PRECONDITION, "delete while it runs: {got:?}");
        self.kill("task-twice").await?;
        self.wait("task-twice", "").await?;
        self.delete("task-twice", "").await.map(drop)
    }

    fn pipe(&self, name: &str) -> Result<String, String> {
        let path = self.bench.scratch().join(format!("{}-{name}", self.service));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    async fn output(&self) -> Outcome {
        let pipe = self.pipe("say")?;
        let path = pipe.clone();
        let said = tokio::task::spawn_blocking(move || std::fs::read_to_string(Path::new(&path)));
        self.create("task-say", &Program::Say("through a pipe\n".into(), String::new()), &pipe).await?;
        self.start("task-say", "").await?;
        self.wait("task-say", "").await?;
        let said = soon("the pipe", said).await?.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        ensure!(said == "through a pipe\n", "it said {said:?}");
        self.delete("task-say", "").await.map(drop)
    }

    async fn exec(&self) -> Outcome {
        let Some(process) = self.bench.echo() else { return Ok(()) };
        self.create("task-exec", &Program::Run, "").await?;
        self.start("task-exec", "").await?;
        let value = serde_json::to_vec(&process).map_err(|e| e.to_string())?;
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value,
            ..Default::default()
        };
        let request = api::ExecProcessRequest {
            id: "task-exec".into(),
            exec_id: "two".into(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        self.good::<api::Empty>("Exec", &request).await?;
        let state = self.state("task-exec", "two").await?;
        ensure!(state.status() == api::Status::CREATED, "after exec: {:?}", state.status());
        let (waited, started) = tokio::join!(self.wait("task-exec", "two"), self.start("task-exec", "two"));
        ensure!(started? > 0, "a process without a pid");
        let status = waited?;
        ensure!(status == 7, "the process reported {status}");
        ensure!(self.delete("task-exec", "two").await? == 7, "delete says another exit status");
        self.kill("task-exec").await?;
        self.wait("task-exec", "").await?;
        self.delete("task-exec", "").await.map(drop)
    }

    async fn figures(&self) -> Outcome {
        let pid = self.create("task-figures", &Program::Run, "").await?;
        self.start("task-figures", "").await?;
        let request = api::PidsRequest { id: "task-figures".into(), ..Default::default() };
        let pids: api::PidsResponse = self.good("Pids", &request).await?;
        ensure!(pids.processes.iter().any(|p| p.pid == pid), "pids lack {pid}");
        let request = api::StatsRequest { id: "task-figures".into(), ..Default::default() };
        let stats: api::StatsResponse = self.good("Stats", &request).await?;
        ensure!(stats.stats.type_url.ends_with(".Metrics"), "figures of type {}", stats.stats.type_url);
        let request = api::ConnectRequest { id: "task-figures".into(), ..Default::default() };
        let connected: api::ConnectResponse = self.good("Connect", &request).await?;
        ensure!(connected.task_pid == pid && connected.shim_pid > 0, "connect said {connected:?}");
        self.kill("task-figures").await?;
        self.wait("task-figures", "").await?;
        self.delete("task-figures", "").await.map(drop)
    }
}
