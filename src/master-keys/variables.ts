/** Variables of the environment. */

/** The shape of `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>

/** @returns its own value only: process.env inherits what some code has put on Object.prototype. Undefined too if it is blank */
export function variable(env: Environment, name: string): string | undefined {
  const text = Object.hasOwn(env, name) ? env[name] : undefined
  return text === undefined || text.trim() === '' ? undefined : text
}
