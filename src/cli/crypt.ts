/** `keystore encrypt` and `keystore decrypt`. They read standard input and write standard output, so that no secret is an argument. */
import { buffer } from 'node:stream/consumers'
import { Command } from 'commander'
import { invalidArgument } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import { isToken } from '../format/token.js'
import { withEnvelope } from './envelope.js'
import { type EnvelopeOptions, withEnvelopeOptions, withUserAndContext } from './options.js'

interface CryptCommandOptions extends EnvelopeOptions {
  readonly user: string
  readonly context: EncryptionContext
}

interface EncryptCommandOptions extends CryptCommandOptions {
  readonly allowToken?: boolean
  readonly allowEmpty?: boolean
}

export function encryptCommand(): Command {
  return withEnvelopeOptions(withUserAndContext(new Command('encrypt')))
    .description('Encrypt all of standard input for a user, and print the token.')
    .option('--allow-token', 'encrypt what is already a token once more')
    .option('--allow-empty', 'encrypt an empty text')
    .addHelpText('after', '\nExample:\n  printf %s "$SECRET" | npx keystore encrypt --user alice')
    .action(async (options: EncryptCommandOptions) => {
      const plaintext = await readStandardInput('the secret')
      refuseMistakes(plaintext, options)
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
    .addHelpText('after', '\nExample:\n  npx keystore decrypt --user alice < token.txt')
    .action(async (options: CryptCommandOptions) => {
      const token = (await readStandardInput('the token')).toString('utf8').trim()
      const plaintext = await withEnvelope(options, (envelope) =>
        envelope.decryptBytes(options.user, token, options.context),
      )
      process.stdout.write(plaintext)
    })
}

/** @throws ERR_INVALID_ARGUMENT for what is hardly ever meant: a token, as in the library, or nothing, as from a command that failed */
function refuseMistakes(
  plaintext: Buffer,
  { allowToken = false, allowEmpty = false }: EncryptCommandOptions,
): void {
  if (plaintext.length === 0 && !allowEmpty)
    throw invalidArgument(
      'Standard input was empty, so nothing was encrypted: --allow-empty encrypts an empty text',
    )
  // A token is ASCII. `decrypt` does not mind white space around it either.
  if (isToken(plaintext.toString('latin1').trim()) && !allowToken)
    throw invalidArgument('Standard input is a token already: --allow-token encrypts it once more')
}

function readStandardInput(what: string): Promise<Buffer> {
  if (process.stdin.isTTY) process.stderr.write(`Type ${what}, then Ctrl-D:\n`)
  return buffer(process.stdin)
}
