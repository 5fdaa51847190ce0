//! `ringway schema`

use clap::Args;

use crate::config;
use crate::control::schemas;
use crate::plugin::registry;

/// Print the JSON Schema of the configuration, for editors.
#[derive(Debug, Args)]
pub struct Schema {
    /// The settings as Markdown
    #[arg(long)]
    markdown: bool,
    /// The plugins as Markdown
    #[arg(long, conflicts_with = "markdown")]
    plugins_markdown: bool,
}

impl Schema {
    /// Prints it.
    pub fn run(&self) -> u8 {
        let page = if self.markdown {
            config::reference_markdown()
        } else if self.plugins_markdown {
            registry::reference_markdown()
        } else {
            format!("{:#}\n", schemas::file())
        };
        super::print(&page);
        0
    }
}
