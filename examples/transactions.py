"""Commit, rollback, savepoints, and a transaction that is run again after a serialization failure.

On a real PostgreSQL, which is started for it.
"""

from tempfile import TemporaryDirectory
from threading import Thread

from persistence import Database, DatabaseManager, DuplicateError, Transaction


def balances(database: Database) -> dict[str, int]:
    """Return what each account holds."""
    rows = database.fetch_all("SELECT owner, balance FROM accounts ORDER BY owner LIMIT 10")
    return {row["owner"]: row["balance"] for row in rows}


def move(database: Database, source: str, target: str, amount: int) -> None:
    """Move money in one transaction: both accounts change, or neither does."""
    change = "UPDATE accounts SET balance = balance + :amount WHERE owner = :owner"
    with database.transaction():
        database.execute(change, {"amount": amount, "owner": target})
        database.execute(change, {"amount": -amount, "owner": source})
        if database.fetch_value("SELECT balance FROM accounts WHERE owner = :owner", {"owner": source}) < 0:
            raise ValueError(f"{source} has not got {amount}")


def commit_and_roll_back(database: Database) -> None:
    """An exception that leaves the block rolls everything back, then goes on its way."""
    move(database, "ada", "grace", 30)
    print("committed:     ", balances(database))
    try:
        move(database, "ada", "grace", 1000)
    except ValueError as exc:
        print("rolled back:   ", balances(database), f"({exc})")


def nest(database: Database) -> None:
    """A nested transaction is a savepoint: it fails by itself, and what was done around it stays."""
    open_account = "INSERT INTO accounts (owner, balance) VALUES (:owner, 0)"
    with database.transaction():
        database.execute(open_account, {"owner": "barbara"})
        try:
            with database.transaction():
                database.execute(open_account, {"owner": "edsger"})
                database.execute(open_account, {"owner": "ada"})
        except DuplicateError as exc:
            print("in a savepoint:", exc)
    print("without edsger:", balances(database))


def retry(database: Database) -> None:
    """A rival changes the row between our read and our write: PostgreSQL refuses, and the whole is run again."""
    tries = 0

    def rival() -> None:
        database.execute("UPDATE accounts SET balance = balance + 1 WHERE owner = 'grace'")

    def double(transaction: Transaction) -> int:
        nonlocal tries
        tries += 1
        balance = transaction.fetch_value("SELECT balance FROM accounts WHERE owner = 'grace'")
        if tries == 1:
            # A thread of its own has a connection of its own: it does not join our transaction.
            other = Thread(target=rival)
            other.start()
            other.join()
        transaction.execute("UPDATE accounts SET balance = :balance WHERE owner = 'grace'", {"balance": balance * 2})
        return int(balance)

    read = database.run_transaction(double, isolation="repeatable read")
    print(f"try {tries} read {read}:  ", balances(database))


def main() -> None:
    """Start a server in a folder that is removed at the end, and run each of them."""
    with TemporaryDirectory() as folder, DatabaseManager() as manager:
        database = manager.add_postgresql("main", f"embedded+postgresql://{folder}/postgresql")
        database.execute("CREATE TABLE accounts (owner text PRIMARY KEY, balance integer NOT NULL)")
        opened = [{"owner": "ada", "balance": 100}, {"owner": "grace", "balance": 0}]
        database.execute_many("INSERT INTO accounts (owner, balance) VALUES (:owner, :balance)", opened)
        commit_and_roll_back(database)
        nest(database)
        retry(database)


if __name__ == "__main__":
    main()
