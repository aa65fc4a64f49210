//! `tenantry`: one binary, its roles as sub-commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenantry::commands::main()
}
