/** `keystore encrypt` and `keystore decrypt`. They read standard input and write standard output, so that no secret is an argument. */
import { buffer } from 'node:stream/consumers'
import { Command } from 'commander'
import type { EncryptionContext } from '../format/context.js'
import { withEnvelope } from './envelope.js'
import { type EnvelopeOptions, withEnvelopeOptions, withUserAndContext } from './options.js'

interface CryptCommandOptions extends EnvelopeOptions {
  readonly user: string
  readonly context: EncryptionContext
}

export function encryptCommand(): Command {
  return withEnvelopeOptions(withUserAndContext(new Command('encrypt')))
    .description('Encrypt all of standard input for a user, and print the token.')
    .addHelpText('after', '\nExample:\n  printf %s "$SECRET" | keystore encrypt --user alice')
    .action(async (options: CryptCommandOptions) => {
      const plaintext = await readStandardInput('the secret')
      const token = await withEnvelope(options, (envelope) =>
        envelope.encryptBytes(options.user, plaintext, options.context),
      )
      process.stdout.write(`${token}\n`)
    })
}

export function decryptCommand(): Command {
  return withEnvelopeOptions(withUserAndContext(new Command('decrypt')))
    .description(
      'Decrypt the token on standard input for a user, and print the plaintext without adding a line end.',
    )
    .addHelpText('after', '\nExample:\n  keystore decrypt --user alice < token.txt')
    .action(async (options: CryptCommandOptions) => {
      const token = (await readStandardInput('the token')).toString('utf8').trim()
      const plaintext = await withEnvelope(options, (envelope) =>
        envelope.decryptBytes(options.user, token, options.context),
      )
      process.stdout.write(plaintext)
    })
}

function readStandardInput(what: string): Promise<Buffer> {
  if (process.stdin.isTTY) process.stderr.write(`Type ${what}, then Ctrl-D:\n`)
  return buffer(process.stdin)
}
