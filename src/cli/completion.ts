/** `keystore completion`: scripts with which a shell completes commands and options, and what these scripts ask. */

import tab from '@bomb.sh/tab'
import tabCommander from '@bomb.sh/tab/commander'
import { Argument, Command } from 'commander'
import { ownCommand } from './command-line.js'

const SHELLS = ['bash', 'zsh', 'fish', 'powershell']

/** The word that shells complete. Where `npx keystore` is typed, an alias makes it one word. */
const WORD = 'keystore'

export function completionCommand(): Command {
  return new Command('completion')
    .description(
      'Print a script with which your shell completes commands and options of `keystore`. If you type `npx keystore`, make it one word first: ' +
        "alias keystore='npx keystore'.",
    )
    .addArgument(new Argument('<shell>', 'the shell').choices(SHELLS))
    .addHelpText(
      'after',
      '\nExamples:\n  source <(npx keystore completion bash)\n  npx keystore completion zsh > ~/.zfunc/_keystore\n' +
        '  npx keystore completion fish > ~/.config/fish/completions/keystore.fish',
    )
    .action((shell: string) => tab.setup(WORD, ownCommand(), shell))
}

interface Completed {
  readonly summary: string
  readonly load: () => Promise<Command>
}

/** Adds all commands, and the hidden one that the scripts call. */
export async function addCompletions(program: Command, commands: Iterable<Completed>): Promise<void> {
  program.name(WORD)
  for (const { summary, load } of commands)
    program.addCommand((await load()).description(summary).copyInheritedSettings(program))
  tabCommander(program, { completionCommandName: 'completions' })
}
