//! `ringway man`

use clap::CommandFactory;

use super::Arguments;

/// Prints the man page: the command and after it each subcommand.
pub fn run() -> u8 {
    let mut page = Vec::new();
    let command = Arguments::command();
    if clap_mangen::Man::new(command.clone()).render(&mut page).is_err() {
        return 1;
    }
    for subcommand in command.get_subcommands() {
        let name = format!("ringway {}", subcommand.get_name());
        let man = clap_mangen::Man::new(subcommand.clone().bin_name(name.clone()));
        page.extend_from_slice(format!(".SH {}\n", name.to_uppercase()).as_bytes());
        if man.render_synopsis_section(&mut page).and(man.render_description_section(&mut page)).is_err()
            || man.render_options_section(&mut page).is_err()
        {
            return 1;
        }
    }
    super::print(&String::from_utf8_lossy(&page));
    0
}
