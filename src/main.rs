//! `tenantry`: one binary, its roles as sub-commands.

use std::process::ExitCode;

use tenantry::commands::Cli;

fn main() -> ExitCode {
    // Before the arguments are read, since variables stand in for flags.
    if let Err(error) = dotenvy::dotenv()
        && !error.not_found()
    {
        eprintln!("tenantry: .env cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    let cli = Cli::read();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tenantry: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenantry: {error}");
            ExitCode::FAILURE
        }
    }
}
