/** `keystore completion`: scripts with which a shell completes commands and options, and what these scripts ask. */

import tab from '@bomb.sh/tab'
import tabCommander from '@bomb.sh/tab/commander'
import { Argument, Command, Help } from 'commander'
import { inThisRuntime, ownCommand } from './command-line.js'
import { sayError } from './say.js'

/** How the script of each shell is installed. */
const SHELLS = {
  bash: 'source <(npx keystore completion bash)\n    # in ~/.bashrc; it needs the package bash-completion',
  zsh: 'npx keystore completion zsh > ~/.zfunc/_keystore\n    # ~/.zfunc is in $fpath, before compinit in ~/.zshrc',
  fish: 'npx keystore completion fish > ~/.config/fish/completions/keystore.fish',
  powershell: 'npx keystore completion powershell >> $PROFILE',
} as const

/** The word that shells complete. Where `npx keystore` is typed, an alias makes it one word. */
const WORD = 'keystore'

/** What the library makes beside the command that the scripts call. Ours is `completion`. */
const INTERNAL = 'completions'

const INSTALL = `How to install it:\n${Object.values(SHELLS)
  .map((line) => `  ${line}`)
  .join('\n')}`

export function completionCommand(): Command {
  return new Command('completion')
    .description(
      'Print a script with which your shell completes commands and options of `keystore`. If you type `npx keystore`, make it one word first: ' +
        "alias keystore='npx keystore'. Without a shell: say which there are, and how to install the script of each.",
    )
    .addArgument(new Argument('[shell]', 'the shell').choices(Object.keys(SHELLS)))
    .addHelpText('after', `\nExamples:\n${INSTALL.slice(INSTALL.indexOf('\n') + 1)}`)
    .action((shell: string | undefined) => {
      if (shell !== undefined) return tab.setup(WORD, ownCommand(), shell)
      // Not on standard output, which a shell may be about to run.
      sayError(inThisRuntime(`Name the shell: ${Object.keys(SHELLS).join(', ')}.\n${INSTALL}`))
      process.exitCode = 2
    })
}

interface Completed {
  readonly summary: string
  readonly load: () => Promise<Command>
}

/** Adds all commands, and the hidden ones that the library needs. */
export async function addCompletions(program: Command, commands: Iterable<Completed>): Promise<void> {
  program.name(WORD)
  program.configureHelp({
    visibleCommands: (command) =>
      new Help().visibleCommands(command).filter((visible) => visible.name() !== INTERNAL),
  })
  for (const { summary, load } of commands)
    program.addCommand((await load()).description(summary).copyInheritedSettings(program))
  tabCommander(program, { completionCommandName: INTERNAL })
}
