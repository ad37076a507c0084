//! Certificate authorities for a system that has none.

use std::os::unix::process::CommandExt;

use crate::layout::Layout;

/// Where TLS clients look first for the authorities that they trust.
const VARIABLE: &str = "SSL_CERT_FILE";

/// On a system without any certificate authority (a small Debian without `ca-certificates`) writes the list that the
/// program carries into the data directory and starts the program again with it: the registry client cannot be made
/// without one, not even to speak plain HTTP. Parts started from here inherit it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn provide(layout: &Layout) -> Result<(), String> {
    if std::env::var_os(VARIABLE).is_some() {
        return Ok(());
    }
    let Some(list) = catamaran_client::roots::where_the_system_has_none() else { return Ok(()) };
    let file = layout.data.join("authorities.pem");
    std::fs::write(&file, list).map_err(|error| {
        format!(
            "this system has no certificate authorities, and {} cannot be written ({error}): install ca-certificates",
            file.display()
        )
    })?;
    let mut again = std::process::Command::new("/proc/self/exe");
    again.arg0("catamaran").args(std::env::args_os().skip(1)).env(VARIABLE, &file);
    // Returns only when it fails.
    Err(format!("cannot start again with certificate authorities: {}", again.exec()))
}
