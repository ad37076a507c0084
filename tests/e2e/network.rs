//! A network namespace for the whole run: loopback and nothing else, so that no packet can leave.

use std::process::{Command, ExitCode};

const MARK: &str = "CATAMARAN_TESTS_IN_OWN_NETWORK";

/// Whether this process was started by `start_again_in_own`; then loopback is brought up.
pub(crate) fn is_own() -> bool {
    let own = std::env::var_os(MARK).is_some();
    if own {
        raise_loopback();
    }
    own
}

/// Runs this program again, with the same arguments, in a new network namespace.
pub(crate) fn start_again_in_own() -> ExitCode {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("unshare");
    command.arg("--net").arg("--").arg(program).args(std::env::args_os().skip(1)).env(MARK, "1");
    let status = command.status().expect("`unshare` of util-linux starts; it needs root");
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

fn raise_loopback() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
        let connection = tokio::spawn(connection);
        let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
        handle.link().set(up).execute().await.expect("loopback comes up");
        connection.abort();
    });
}
