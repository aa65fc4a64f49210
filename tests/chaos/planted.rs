//! `tenantry` with fail-points and planted bugs: what the history checker runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenantry::commands::main()
}
